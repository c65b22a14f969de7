"""The engines of this process: one for each pool and its settings, with all that listens to it.

- `registry`: `get_engine`, `dispose_engine`, `warm`; `process_engine` gives its settings as well.
- `build`: makes one, and hangs onto it what the others are for:
- `steps`: tells those below of what the engine's connections do, before they do it.
- `forks`: keeps every connection in the process that opened it.
- `connecting`: what an engine adds to each opening of a connection, and says of one that fails.
- `application_name`: what the server's list of sessions calls this process.
- `transaction_modes`: isolation level, read-only and deferrable, for one transaction.
- `refused_commits`: COMMITs that would not store what their author believes to be stored.
- `stored`: what the work in hand may have stored so far (`observed`, `Outcome`), and so whether it
  may be run again.
- `write_outage`: a server that takes no writes (`WriteOutage`), one for each engine: said once,
  waited for, its connections replaced.
- `traffic`: what goes over a connection in its transaction, and when, while somebody observes: for
  `stored` and `overstays`.
- `hearing`: shows `refused_commits` and `stored` what drivers say, before anybody can put another
  error in its place.
- `overstays`: connections that the server ends because their holder lets them wait, and by which
  setting.
- `sent`: what a session's transaction has changed and holds, and would be lost with it; always,
  and for `sessions`.
- `apart`: a connection beside an engine's pool, to look at the server; for `probes` and
  `write_outage`.
- `probes`: a look at the database outside of the pool: `try_to_connect` with the engine that is
  there, `connect_once` without one, `check_at_start`.
"""
