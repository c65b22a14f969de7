"""What a drill found, as text, and whether it is what was to be reached."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One figure, and what it may be at most or has to be at least.

    What has no unit is a count; everything else depends on the machine too.
    """

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    def reached(self, lenience: float = 1.0) -> bool:
        """Tell whether it is within its limits, or within so many times those of what is timed."""
        factor = lenience if self.unit else 1.0
        # Written so that NaN, which compares with nothing, reaches nothing.
        return (self.most is None or self.value <= self.most * factor) and (
            self.least is None or self.value >= self.least / factor
        )

    @property
    def target(self) -> str:
        """Say what is to be reached."""
        limits = [f"<= {shown(self.most, self.unit)}"] if self.most is not None else []
        limits += [f">= {shown(self.least, self.unit)}"] if self.least is not None else []
        return " ".join(limits)


def at_most(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Make a figure that is not to exceed a limit."""
    return Figure(name, value, unit, most=limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Figure:
    """Make a figure that is not to fall below a limit."""
    return Figure(name, value, unit, least=limit)


def plain(name: str, value: float, unit: str = "") -> Figure:
    """Make a figure that has nothing to reach."""
    return Figure(name, value, unit)


def shown(value: float, unit: str) -> str:
    """Show a number as a person would write it."""
    whole = float(value).is_integer() or abs(value) >= 100
    return f"{value:,.0f} {unit}".strip() if whole else f"{value:.3g} {unit}".strip()


def missed(figures: Iterable[Figure], lenience: float = 1.0) -> list[Figure]:
    """List the figures that fall short."""
    return [figure for figure in figures if not figure.reached(lenience)]


def as_text(title: str, figures: Iterable[Figure]) -> str:
    """Show a drill's figures, one a line."""
    return "\n".join([title, *(line(figure) for figure in figures)])


def line(figure: Figure) -> str:
    """Show a figure."""
    value, target = shown(figure.value, figure.unit), figure.target
    verdict = ("reached" if figure.reached() else "MISSED") if target else ""
    return f"  {figure.name:44} {value:>12}   {target:12} {verdict}".rstrip()
