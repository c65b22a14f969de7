"""What drivers' errors, connections and statements say; knows SQLAlchemy, and no pool.

- `driver_errors`: what an error carries: its SQLSTATE or number, and its words, without secrets.
- `connect_failures`: why a connection could not be opened (`ConnectFailure`), and so what helps;
  `tls`: whether it was for a certificate, a key or an option of TLS; `app_errors`: whether it was
  the app's own code.
- `transactions`: what an error or a connection says of the transaction in hand: lost, rolled
  back, given up by the server, in autocommit, ended by a timeout.
- `writability`: whether a server can store anything: is it read-only as after a failover, or full?
- `last_words`: what the server has said on a connection that it has ended.
- `statements`: what a statement does, as far as its first words tell: does it begin or commit,
  does it change anything?
- `sockets`: what a connection's socket shows without a round trip, and what can be done to it.
"""
