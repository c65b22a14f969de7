"""Pyramid's side, and beside `cli` the only one that imports it: what an app gets by an include.

- `include`: what ``config.include("pyramid_dbpool")`` registers, step by step.
- `request_db`: ``request.db`` and the sessions behind it, which always give their connection back.
- `failures`: answers that report a failure, and what exception views find.
- `retry`: the tween over all others: which requests may be tried again, and for how long.
- `overload`: 503 with Retry-After for a request that gets no connection.
- `incidents`: what the log says of such a request, and of a write that is in doubt.
- `readiness`: the route that tells load balancers whether the app can serve.
- `streaming`: `stream`, for rows in a response's body.
- `pshell`: what ``[pshell] setup = pyramid_dbpool.pshell.setup`` calls.
- `requests`: what a request says of itself: its name, a session that a test has supplied, whether
  it may be repeated.

Importing this package imports no Pyramid, nor do `streaming`, `pshell` and `requests`: workers and
scripts have them without it.
"""
