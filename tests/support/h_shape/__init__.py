"""An app of h's shape: a transaction manager of each request's own that is not explicit.

Views, subscribers after the response, commands, tasks and a streamer, which use `request.db` and
`request.tm` as h's do; what they do with them is made up.

- `app`: models, services, views, what runs after the response.
- `commands`: a program whose commands bootstrap the app, and never end their request.
- `tasks`: Celery's, with one request for all of a worker's.
- `streamer`: a loop of its own over messages.
"""
