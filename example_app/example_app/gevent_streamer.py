"""The streamer under gevent. gunicorn would patch only after the app and its pool are made."""

from gevent import monkey

monkey.patch_all()

from example_app.streamer import main  # noqa: E402

__all__ = ["main"]
