"""An app with the live page, before processes that are made up."""

from collections.abc import Callable
from typing import Any

from pyramid.config import Configurator
from pyramid.request import Request

from pyramid_dbpool.status.overview import Overview
from pyramid_dbpool.status.views import SOURCE
from tests.support.reports import NOW, event, histogram, holder, pool, report, waiter

__all__ = ["SCENES", "Host", "UserHeader", "status_app"]

Reports = list[Any]


class Host:
    """Stands in for the `Source`: shows one scene after the other, and notes commands."""

    def __init__(self, scene: Callable[[int], Reports], **silent: str) -> None:
        self.scene = scene
        self.asked = 0
        self.silent = {int(pid[1:]): why for pid, why in silent.items()}
        self.note = ""
        self.commands: list[tuple[Any, ...]] = []
        self.answers: dict[int, str | None] = {1: None, 2: None}

    def overview(self) -> Overview:
        """Show the next moment of the scene."""
        self.asked += 1
        return Overview(self.scene(self.asked), self.silent, self.note)

    def was_asked_after(self, times: int) -> bool:
        """Tell whether it was asked more often."""
        return self.asked > times

    def command(self, name: str, key: str, by: str, **arguments: int) -> dict[int, str | None]:
        """Note it."""
        if not any(each.key == key for each in self.overview().pools):
            raise ValueError("There is no such pool any more.")
        self.commands.append((name, key, by, arguments))
        return self.answers


class UserHeader:
    """The app's security policy: the user is in the header `X-User`."""

    def identity(self, request: Request) -> str | None:
        """Say who it is."""
        user: str | None = request.headers.get("X-User")
        return user

    authenticated_userid = identity

    def permits(self, request: Request, context: object, permission: str) -> bool:
        """Let admins do everything, and others look."""
        user = self.identity(request)
        return user == "admin" or (user == "guest" and permission == "look")

    def remember(self, request: Request, userid: str, **kw: object) -> list[Any]:
        """Do nothing."""
        return []

    def forget(self, request: Request, **kw: object) -> list[Any]:
        """Do nothing."""
        return []


def status_app(
    host: Any,
    settings: dict[str, str] | None = None,
    *,
    policy: Any = None,
    also: Callable[[Configurator], object] = lambda _config: None,
) -> Any:
    """Make the app; its database is never asked."""
    base = {
        "sqlalchemy.url": "sqlite:///never.db",
        "dbpool.status_permission": "look",
        "dbpool.status_command_permission": "act",
    }
    with Configurator(settings=base | (settings or {})) as config:
        config.include("pyramid_dbpool")
        config.include("pyramid_dbpool.status")
        config.set_security_policy(policy or UserHeader())
        also(config)
    config.registry[SOURCE] = host
    return config.make_wsgi_app()


def calm(_now: int) -> Reports:
    """Nobody waits."""
    return [report(pid, [pool(holders=[holder()] * (pid % 2))]) for pid in (4711, 4712, 4713)]


def busy(now: int) -> Reports:
    """Much is in use, and callers wait for a moment."""
    holders = [holder(seconds=0.02 * n, ident=n) for n in range(9 + now % 5)]
    waiters = [waiter(seconds=0.004)] * (now % 3)
    waits = histogram({0.0001: 900 * now, 0.005: 80 * now, 0.05: 9 * now * (1 + now % 4)})
    first = pool(holders=holders, waiters=waiters, idle=1, wait=waits, opening=now % 2)
    replica = pool("replica", holders=[holder("GET route 'list'")] * (now % 3), wait=waits)
    events = [
        event(2, "held", "pool 'default': GET route 'export' has held a connection for 60 s"),
        event(1, "resize", "pool 'default' has room for 15", at=NOW - 300, level="INFO"),
    ]
    return [report(4711, [first, replica], events=events), report(4712, [pool(), pool("replica")])]


def exhausted(now: int) -> Reports:
    """A slow view eats the pool."""
    out = min(10, 2 + now)
    slow = max(0, out - 2)
    holders = [
        holder("GET route 'slow'", 0.4 * n + 0.1, SLOW, ident=n, server_pid=900 + n)
        for n in range(slow)
    ] + [holder(ident=50 + n, seconds=0.02) for n in range(out - slow)]
    waiting = max(0, now - 8) if now < 20 else 12
    waiters = [
        waiter(seconds=0.27 * n + 0.02, ident=100 + n, holds=n in (2, 5)) for n in range(waiting)
    ]
    waits = histogram({0.0001: 900, 0.5: 3 * now, 1.0: now})
    full = pool(capacity=10, idle=0, holders=holders, waiters=waiters, wait=waits)
    events = [
        event(3, "refused", "pool 'default': no connection came free within 5 s", level="ERROR"),
        event(2, "held", "pool 'default': GET route 'slow' has held a connection for 60 s"),
    ]
    free = pool(capacity=10, holders=[holder(ident=70)])
    return [report(4711, [full], events=events), report(4712, [free]), report(4713, [free])]


def away(now: int) -> Reports:
    """The database went away."""
    gone = 1.5 * (now - 6)
    why = (
        "pool 'default' cannot open a connection (sqlalchemy.url):"
        ' connection to server at "db.example", port 5432 failed: Connection refused'
    )
    seconds = gone if gone > 0 else None
    waiters = [waiter(seconds=0.4 * n, ident=n) for n in range(5)] if gone > 0 else []
    one = pool(outage_seconds=seconds, idle=0 if seconds else 3, waiters=waiters)
    events = [event(1, "outage", why, level="ERROR")] if seconds else []
    return [report(pid, [one], events=events) for pid in (4711, 4712)]


def paused(_now: int) -> Reports:
    """Somebody maintains the database."""
    by = {"by": "alice on the live page"}
    events = [event(1, "pause", "pool 'default' is paused by alice on the live page", fields=by)]
    one = pool(paused_seconds=42.0, idle=0, holders=[holder()], waiters=[waiter(seconds=1.5)])
    return [report(4711, [one], events=events)]


SLOW = (
    "wait_for_report (reports.py:118)",
    "monthly (reports.py:87)",
    "slow (views.py:54)",
    "rendered_view (viewderivers.py:438)",
)
SCENES = {each.__name__: each for each in (calm, busy, exhausted, away, paused)}
