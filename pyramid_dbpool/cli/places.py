"""Where in an ini file each setting of an app stands: PasteDeploy knows, and does not tell."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Place", "places"]

_HEADER = re.compile(r"\[(?P<name>[^]]+)\]")
_OPTION = re.compile(r"(?P<name>[^\s#;=:][^=:]*?)\s*[=:]\s*(?P<value>.*)")
_VARIABLE = re.compile(r"(?<!%)(?:%%)*%\((\w+)\)s")
# PasteDeploy's kinds of sections that can be an app, `app:main` being the usual one.
_KINDS = ("app", "application", "composite", "composit", "pipeline", "filter-app")
# Sections that use each other; a file that goes round in a circle is no app.
_DEEPEST = 20


@dataclass(frozen=True)
class Place:
    """The line of a file in which a setting stands.

    `variables` are those that its value is made of, such as `DATABASE_URL`.
    """

    file: str
    line: int
    value: str = field(repr=False)

    @property
    def variables(self) -> tuple[str, ...]:
        """The names in its %(name)s."""
        return tuple(each for each in _VARIABLE.findall(self.value) if each != "here")

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def places(config_uri: str) -> Mapping[str, Place]:
    """Return where each setting of an app stands, by its key.

    What is not found there, because it comes from elsewhere, is left out.
    """
    path, _, name = config_uri.partition("#")
    found: dict[str, Place] = {}
    for section in _sections(path.removeprefix("config:"), name or "main"):
        for key, place in section.items():
            # The nearest section has the say.
            found.setdefault(key.removeprefix("get ").strip(), place)
    return found


def _sections(path: str, name: str) -> Iterator[Mapping[str, Place]]:
    """Yield the section of an app, then those that it uses."""
    for _ in range(_DEEPEST):
        section = _section(path, name)
        yield section
        used = _used(section)
        if used is None:
            return
        if used.startswith("config:"):
            file, _, name = used.removeprefix("config:").partition("#")
            path, name = str(Path(path).parent / file), name or "main"
        elif ":" in used:
            return
        else:
            name = used


def _used(section: Mapping[str, Place]) -> str | None:
    for key in ("use", "next", "pipeline"):
        # `use` of a filter says which filter.
        if key in section and not (key == "use" and "next" in section):
            return section[key].value.split()[-1] if section[key].value.split() else None
    return None


def _section(path: str, name: str) -> Mapping[str, Place]:
    wanted = {f"{kind}:{name}" for kind in _KINDS} | ({"app"} if name == "main" else set())
    found: dict[str, Place] = {}
    inside = False
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return found
    for number, line in enumerate(lines, 1):
        header = _HEADER.match(line)
        if header:
            kind, colon, rest = header["name"].partition(":")
            inside = f"{kind}{colon}{rest.strip()}" in wanted
        elif inside and (option := _OPTION.match(line)):
            found[option["name"]] = Place(path, number, option["value"])
    return found
