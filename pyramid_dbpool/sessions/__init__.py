"""Sessions on the process's engines, for whoever runs one: request, worker or script.

- `unit_of_work`: `session_factory`, and `unit_of_work`, which commits, rolls back and closes.
- `maker`: the sessionmaker of a pool, whose sessions outlive their connection.
- `closing`: `close_session` and `roll_back`, which give the connection back in any case.
- `uncommitted`: what a session has written and not committed, and who counts on it.
- `given_up`: what it holds besides, and would give up: locks, and notifications to be sent.
- `joining`: a session's part in a transaction of the `transaction` package. It imports
  zope.sqlalchemy, and with it every driver that is installed: only who joins imports it.
"""
