"""Notes that everybody sees: the smallest real app on pyramid_dbpool."""

from typing import Any

from pyramid.config import Configurator
from pyramid.router import Router
from pyramid.settings import asbool


def main(global_config: dict[str, str], **settings: Any) -> Router:
    """Make the web app; `[app:main]` of the ini file gives the settings."""
    with Configurator(settings=settings) as config:
        config.include("pyramid_retry")
        config.include("pyramid_tm")
        config.include("pyramid_dbpool")
        config.include(".broker")
        config.include(".busy")
        config.include(".headers")
        config.include(".views")
    if asbool(settings.get("migrate_on_start")):
        # Here, because in production nobody needs Alembic but the command.
        from example_app.migrate import upgrade  # noqa: PLC0415

        upgrade(settings)
    return config.make_wsgi_app()
