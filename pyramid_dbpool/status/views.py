"""Who may see the page, who may act, and that no other site acts in their name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pyramid.config import Configurator
from pyramid.exceptions import BadCSRFOrigin
from pyramid.httpexceptions import HTTPBadRequest, HTTPForbidden, HTTPSeeOther
from pyramid.interfaces import ISecurityPolicy
from pyramid.request import Request
from pyramid.response import Response
from pyramid.security import NO_PERMISSION_REQUIRED
from pyramid.tweens import EXCVIEW, INGRESS

from ..settings import AppSettings, load_app
from ..telemetry.wording import counted
from ..web.include import PyramidSettingsError, as_configuration_error, whole_path
from ..web.retry import at_creation
from . import apart, page
from .source import Source

__all__ = ["SOURCE", "add_apart", "add_page", "check_policy", "load"]

# The registry's key of the `Source`: tests put another one there.
SOURCE = "pyramid_dbpool.status.source"
ROUTE = "pyramid_dbpool.status"

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": page.POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    # With no-referrer, browsers would send forms with "Origin: null".
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_COMMANDS = ("refresh", "resize", "pause", "resume")
# What becomes of a command, in words.
_DONE = {"refresh": "refreshed", "resize": "resized", "pause": "paused", "resume": "resumed"}


def load(config: Configurator) -> AppSettings:
    """Read the app's settings, which have to name the permission.

    :raises PyramidSettingsError: they do not, or a setting is wrong.
    """
    with as_configuration_error():
        app = load_app(config.get_settings())
    if not app.status_permission:
        raise PyramidSettingsError(
            "dbpool.status_permission is missing: pyramid_dbpool.status shows who holds which"
            " connection and where in the code, so name the permission that one needs to see"
            " that, such as dbpool.status_permission = admin."
        )
    return app


def add_page(config: Configurator, app: AppSettings) -> None:
    """Register the page, its data and its commands."""
    config.registry[SOURCE] = Source(app.run_dir)
    views = _Views(app)
    path = whole_path(config, app.status_route)
    config.registry[apart.APART] = apart.Apart({path: views.shown, f"{path}.json": views.changed})
    config.add_route(ROUTE, app.status_route)
    config.add_route(f"{ROUTE}.json", f"{app.status_route}.json")
    # The views ask for the permission by themselves: where the policy is registered after them,
    # and the configuration commits by itself, Pyramid's would let everybody in.
    common = {"permission": NO_PERMISSION_REQUIRED, "require_csrf": False}
    config.add_view(views.show, route_name=ROUTE, request_method="GET", **common)
    config.add_view(views.act, route_name=ROUTE, request_method="POST", **common)
    config.add_view(views.data, route_name=f"{ROUTE}.json", request_method="GET", **common)


def check_policy(config: Configurator, app: AppSettings) -> None:
    """Refuse to start an app that has no security policy, which would let everybody in."""

    def check() -> None:
        for keyword in ("status_permission", "status_command_permission"):
            permission = getattr(app, keyword)
            if permission in (None, NO_PERMISSION_REQUIRED) or has_policy(config.registry):
                continue
            raise PyramidSettingsError(
                f"dbpool.{keyword} = {permission!r}: this app has no security policy"
                " (config.set_security_policy), so everybody would have that permission. Set one;"
                f" or, for development, dbpool.{keyword} = {NO_PERMISSION_REQUIRED}, which gives"
                " it to everybody."
            )

    at_creation(config.registry, check)


def add_apart(config: Configurator) -> None:
    """Keep the page out of transactions."""
    # Over the app's own tweens, if it is included after them.
    config.add_tween(apart.TWEEN, under=INGRESS, over=("pyramid_tm.tm_tween_factory", EXCVIEW))


def has_policy(registry: Any) -> bool:
    """Tell whether permissions mean anything in this app."""
    return registry.queryUtility(ISecurityPolicy) is not None


@dataclass(frozen=True)
class _Views:
    app: AppSettings

    def show(self, request: Request) -> Response:
        """Show the page."""
        self._let_in(request)
        return self.shown(request, self._may_command(request))

    def data(self, request: Request) -> Response:
        """Give the page's script what has changed."""
        self._let_in(request)
        return self.changed(request, self._may_command(request))

    def changed(self, request: Request, may: bool = False) -> Response:
        """Give what has changed, to somebody who is let in."""
        overview = _source(request).overview()
        return _json(
            title=page.title(overview),
            content=page.content(overview, self._path(request), may_command=may),
            numbers=page.numbers(overview),
        )

    def act(self, request: Request) -> Response:
        """Do what a button says."""
        self._let_in(request)
        if not self._may_command(request):
            raise HTTPForbidden("You may look at the pools, and not act on them.")
        refuse_other_sites(request)
        said, status = self._do(request)
        if request.headers.get("Accept") == "application/json":
            return _json(status, said=said)
        if status == 200:
            # Reloading the page does not send it again; the events tell what has come of it.
            return HTTPSeeOther(self._path(request), headers=_HEADERS.items())
        return self.shown(request, True, said, status)

    def _do(self, request: Request) -> tuple[str, int]:
        try:
            command, key, arguments = _read(request)
            answers = _source(request).command(command, key, by=_who(request), **arguments)
        except ValueError as error:
            return str(error), 400
        wrong = [f"Process {pid} {why}." for pid, why in answers.items() if why]
        done = counted(len(answers) - len(wrong), "process", "processes")
        said = f"Pool {key.split()[0]} is {_DONE[command]} in {done}."
        return " ".join([said, *wrong]), 502 if wrong else 200

    def shown(
        self, request: Request, may: bool = False, said: str = "", status: int = 200
    ) -> Response:
        """Show the page to somebody who is let in."""
        text = page.document(
            _source(request).overview(),
            self._path(request),
            may_command=may,
            still="still" in request.environ.get("QUERY_STRING", "").split("&"),
            said=said,
        )
        # A place in the code may have letters of no encoding.
        body = text.encode("utf-8", "backslashreplace")
        return Response(body, status=status, headerlist=_headers("text/html; charset=UTF-8"))

    def _path(self, request: Request) -> str:
        path: str = request.route_path(ROUTE)
        return path

    def _let_in(self, request: Request) -> None:
        permission = self.app.status_permission
        visitors = request.registry[apart.APART].visitors
        if permission is None or not may(request, permission):
            visitors.turned_away(request.environ)
            raise HTTPForbidden("You need a permission to see the pools.")
        visitors.let_in(request.environ)

    def _may_command(self, request: Request) -> bool:
        permission = self.app.status_command_permission
        return permission is not None and may(request, permission)


def may(request: Request, permission: str) -> bool:
    """Tell whether the app's security policy gives a permission."""
    if permission == NO_PERMISSION_REQUIRED:
        return True
    return has_policy(request.registry) and bool(request.has_permission(permission))


def refuse_other_sites(request: Request) -> None:
    """Refuse a form that another site has sent in the name of whoever looks at it.

    By what browsers say and no page can change, so it needs no session: over HTTPS and on
    localhost ``Sec-Fetch-Site``, and ``Origin`` on each POST, from forms too.

    :raises BadCSRFOrigin: it is from elsewhere, or does not say from where.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site == "same-origin":
            return
        raise BadCSRFOrigin(f"This comes from another site (Sec-Fetch-Site: {site}).")
    origin = request.headers.get("Origin")
    if origin is None:
        raise BadCSRFOrigin("This does not say which page it comes from (Origin is missing).")
    if origin != request.host_url:
        raise BadCSRFOrigin(f"This comes from another site (Origin: {origin}).")


def _read(request: Request) -> tuple[str, str, dict[str, int]]:
    """Read a command out of a form.

    :raises ValueError: it is none.
    """
    try:
        form = request.POST
    except (UnicodeDecodeError, DeprecationWarning):
        # The second is what WebOb raises for any other charset.
        raise HTTPBadRequest("The form is not UTF-8.") from None
    command, key = form.get("command", ""), form.get("pool", "")
    if command not in _COMMANDS:
        raise ValueError(f"There is no command {command!r}: there are {', '.join(_COMMANDS)}.")
    arguments = {}
    for name in ("size", "max_overflow") if command == "resize" else ():
        try:
            arguments[name] = int(form.get(name, ""))
        except ValueError:
            raise ValueError(f"{name} has to be a whole number.") from None
    return command, key, arguments


def _who(request: Request) -> str:
    """Say who asks, for the log."""
    user = request.authenticated_userid if has_policy(request.registry) else None
    return f"{user} on the live page" if user else f"somebody at {request.client_addr}"


def _source(request: Request) -> Source:
    source: Source = request.registry[SOURCE]
    return source


def _headers(content_type: str) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), *_HEADERS.items()]


def _json(status: int = 200, **content: Any) -> Response:
    text = json.dumps(content, separators=(",", ":"))
    return Response(text.encode(), status=status, headerlist=_headers("application/json"))
