"""Whoever looks at an incident, through whichever window, finds who is to blame."""

import math

import pytest

from drills import incidents
from drills.report import as_text, missed
from drills.windows import Said, figures, missing_in, section, telling_lines

# What depends on who else is at work may take so many times as long as `make drill` allows.
LENIENCE = 4


@pytest.mark.slow
@pytest.mark.programs
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", incidents.INCIDENTS)
def test_each_window_names_who_is_to_blame(name: str) -> None:
    """The view, the message or the cause, and the place in the code, within seconds."""
    figures = incidents.drill([name], report=None)
    print(as_text(name, figures))
    assert figures
    assert not missed(figures, LENIENCE)


def test_what_a_window_does_not_say_is_missing() -> None:
    """All that it has to say, it has to say."""
    assert missing_in("GET route 'slow' for 2.0 s", ["'slow' for \\d", "GET"]) == ()
    assert missing_in("GET route 'slow'", ["GET", "ask_the_bank"]) == ("ask_the_bank",)


def test_the_note_in_brief_has_the_lines_that_name_who_is_to_blame() -> None:
    """Each once; and what a window has never said is there."""
    text = "Held by\n  GET route 'slow'  3 connections, now in ask_the_bank\n"
    wanted = ["'slow'", "ask_the_bank", "never"]
    told = telling_lines(text, wanted)
    assert told == "GET route 'slow'  3 connections, now in ask_the_bank"
    said = Said("While they ask", "top", math.inf, text, told, missing_in(text, wanted))
    written = section("Slow", "It is slow.", [said], brief=True)
    assert "*top*, never said 'never'::" in written
    assert told in written and "Held by" not in written
    assert "Held by" in section("Slow", "It is slow.", [said])
    assert missed(figures("slow", [said]))
