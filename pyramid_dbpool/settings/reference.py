"""The settings as a table: for the README, the documentation and the command line."""

from collections.abc import Collection

from .declaration import SETTINGS, Setting
from .values import allowed

__all__ = ["COMMON", "HEADINGS", "default_text", "reference", "rows"]

HEADINGS = ("Setting", "Value", "Default", "Meaning")

# Those that most apps look at: the README has no others.
COMMON = (
    "sqlalchemy.url",
    "sqlalchemy.pool_size",
    "sqlalchemy.max_overflow",
    "sqlalchemy.pool_timeout",
    "dbpool.request_attr",
    "dbpool.request_timeout",
    "dbpool.readiness_route",
    "dbpool.startup_check",
    "dbpool.read_only",
    "dbpool.application_name",
    "dbpool.statement_timeout",
    "dbpool.idle_timeout",
    "dbpool.max_lifetime",
    "dbpool.max_waiting",
    "dbpool.outage_grace",
    "dbpool.hold_warning",
)


def default_text(setting: Setting) -> str:
    """Return a setting's default as one would write it in an ini file.

    Empty where SQLAlchemy, the dialect or the driver decides.
    """
    value = setting.default
    if setting.off is not ... and value == setting.off:
        return "off"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}".replace("orm.session", "orm")
    return f"{value:g} s" if setting.unit else str(value)


def rows() -> list[tuple[str, str, str, str]]:
    """Return key, allowed values, default and meaning of every setting, in order."""
    return [(s.key, allowed(s), default_text(s), s.doc) for s in SETTINGS]


def reference(keys: Collection[str] | None = None) -> str:
    """Return the table of the settings in reStructuredText.

    :param keys: the ini keys of those to show; all if not given.
    """
    lines = [".. list-table::", "   :header-rows: 1", "   :widths: 28 30 12 30", ""]
    shown = [row for row in rows() if keys is None or row[0] in keys]
    for row in [HEADINGS, *shown]:
        cells = [_cell(i, text, row is HEADINGS) for i, text in enumerate(row)]
        lines += [f"   {'*' if i == 0 else ' '} - {c}".rstrip() for i, c in enumerate(cells)]
    return "\n".join(lines) + "\n"


def _cell(column: int, text: str, heading: bool) -> str:
    if column == 0 and not heading:
        return f"``{text}``"
    # Single back quotes would be reST's "interpreted text".
    return text.replace("`", "``").replace("*", r"\*").replace("_ ", r"\_ ")
