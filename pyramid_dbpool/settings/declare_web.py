"""The settings of the web side: what a request, a start and a look at the app's state may take."""

from .setting import YEAR, Setting, own

__all__ = ["WEB_SETTINGS"]

WEB_SETTINGS: tuple[Setting, ...] = (
    own(
        "request_timeout",
        "duration",
        None,
        "Let no wait for a connection last beyond so long after the request began, over all its"
        " attempts.",
        scope="app",
        low=0.001,
        high=YEAR,
        off=None,
    ),
    own(
        "readiness_route",
        "path",
        None,
        "Answer on this path with 200 while the database can be reached, else with 503.",
        scope="app",
        off=None,
    ),
    own(
        "startup_check",
        "choice",
        "off",
        "When a server or `consume` starts, try a connection: `warn` once; `wait` until it works"
        " or `startup_timeout` is over; `require` the same, and end the process if it does not.",
        choices=("off", "warn", "wait", "require"),
    ),
    own(
        "startup_timeout",
        "duration",
        20.0,
        "How long `startup_check` waits for the database.",
        low=0,
        high=YEAR,
    ),
)
