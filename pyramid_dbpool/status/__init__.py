"""The live page: ``config.include("pyramid_dbpool.status")``, and somebody may look at `/dbpool`.

It shows all processes of the host that answer in `dbpool.run_dir`, without it only the one that
the request has come to. Whoever looks has the permission `dbpool.status_permission`, whoever acts
on pools `dbpool.status_command_permission` too. Nothing is asked or kept while nobody looks.

- `overview`: what the reports say together: the verdict, and why.
- `page`: an overview as elements, and the document around them, `page.html`.
- `elements`: elements as lists, which both sides can make a page of.
- `source`: where the reports come from, and who does what a command says.
- `views`: who may see it, who may act, and that no other site acts in their name.
- `apart`: the tween that keeps the page out of transactions and of the line for a connection.

The page needs no connection: it is there while a pool is exhausted, and while the database is
away.
"""

from typing import Any

__all__ = ["includeme"]


def includeme(config: Any) -> None:
    """Show the live page to those who have the permission `dbpool.status_permission`.

    :raises SettingsError: that is not set, or the app has no security policy to ask about it.
    """
    from . import views  # noqa: PLC0415

    app = views.load(config)
    views.add_page(config, app)
    views.check_policy(config, app)
    views.add_apart(config)
