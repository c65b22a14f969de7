"""The verdicts of the drills."""

import math

import pytest

from drills import __main__ as drills
from drills.report import Figure, as_text, at_least, at_most, missed, plain

REACHED = [
    at_most("failed", 0, 0),
    at_most("latency", 0.05, 0.05, "s"),
    at_least("share", 0.9, 0.9, "x"),
    plain("requests", 1830),
]
MISSED = [
    at_most("failed", 1, 0),
    at_most("latency", 0.0501, 0.05, "s"),
    at_most("latency", math.nan, 0.05, "s"),
    at_most("return", math.inf, 2, "s"),
    at_least("share", 0.899, 0.9, "x"),
    at_least("share", math.nan, 0.9, "x"),
]


def test_a_figure_within_its_limit_is_reached() -> None:
    """The limit itself included; what has none misses nothing."""
    assert missed(REACHED) == []


@pytest.mark.parametrize("figure", MISSED, ids=str)
def test_a_figure_beyond_its_limit_is_missed(figure: Figure) -> None:
    """So is one that could not be taken."""
    assert missed([figure]) == [figure]
    assert as_text("", [figure]).endswith("MISSED")


def test_lenience_is_for_what_is_timed() -> None:
    """A busy machine explains a latency, but no lost note, and not everything."""
    assert missed([at_most("latency", 0.19, 0.05, "s"), at_least("share", 0.3, 0.9, "x")], 4) == []
    for figure in (at_most("lost", 1, 0), at_least("refused", 0, 1)):
        assert missed([figure], 4) == [figure]
    for figure in (at_most("latency", 0.21, 0.05, "s"), at_least("share", 0.2, 0.9, "x")):
        assert missed([figure], 4) == [figure]


def test_figures_are_shown_with_their_units_and_targets() -> None:
    """As a person would write them."""
    figures = [
        plain("requests", 5148),
        at_most("latency", 0.0451, 0.05, "s"),
        at_least("share", 0.5, 0.9, "x"),
        at_most("return", math.inf, 2, "s"),
    ]
    assert [line.split() for line in as_text("Title", figures).splitlines()] == [
        ["Title"],
        ["requests", "5,148"],
        ["latency", "0.0451", "s", "<=", "0.05", "s", "reached"],
        ["share", "0.5", "x", ">=", "0.9", "x", "MISSED"],
        ["return", "inf", "s", "<=", "2", "s", "MISSED"],
    ]


@pytest.mark.parametrize(
    ("wanted", "figures", "code"),
    [("flood", REACHED, 0), ("flood", MISSED[:1], 1), ("usual", MISSED[:1], 0)],
)
def test_the_exit_code_says_whether_the_plugin_misses_a_target(
    wanted: str, figures: list[Figure], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usual pattern is there to compare with."""
    monkeypatch.setitem(drills.DRILLS, wanted, ("Title", lambda short: figures))
    monkeypatch.setattr("sys.argv", ["drills", "--only", wanted])
    assert drills.main() == code
