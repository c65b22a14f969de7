"""The example app's streamer in the usual pattern, as gunicorn's configuration."""

import example_app.streamer
from drills import usual

__all__ = ["post_worker_init"]

example_app.streamer.consume = usual.consume  # type: ignore[attr-defined, assignment]
post_worker_init = example_app.streamer.post_worker_init
