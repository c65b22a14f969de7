"""What a drill found, as text."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure; `target` says what is to be reached, `reached` whether it was.

    What has no unit is a count; everything else depends on the machine too.
    """

    name: str
    value: str
    unit: str = ""
    target: str = ""
    reached: bool | None = None


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Make a figure that is not to exceed a limit."""
    return Figure(name, shown(value, unit), unit, f"<= {shown(limit, unit)}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Make a figure that is not to fall below a limit."""
    return Figure(name, shown(value, unit), unit, f">= {shown(limit, unit)}", value >= limit)


def plain(name: str, value: float, unit: str = "") -> Figure:
    """Make a figure that has nothing to reach."""
    return Figure(name, shown(value, unit), unit)


def shown(value: float, unit: str) -> str:
    """Show a number as a person would write it."""
    number = f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"
    return f"{number} {unit}".strip()


def missed(figures: Iterable[Figure]) -> list[Figure]:
    """List the figures that fall short."""
    return [figure for figure in figures if figure.reached is False]


def as_text(title: str, figures: Iterable[Figure]) -> str:
    """Show a drill's figures, one a line."""
    marks = {True: "reached", False: "MISSED", None: ""}
    lines = [title]
    for figure in figures:
        target = f"{figure.target:12} {marks[figure.reached]}"
        lines.append(f"  {figure.name:44} {figure.value:>12}   {target}".rstrip())
    return "\n".join(lines)
