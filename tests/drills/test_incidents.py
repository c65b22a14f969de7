"""Whoever looks at an incident, through whichever window, finds who is to blame."""

import pytest

from drills import incidents
from drills.report import as_text, missed
from drills.windows import missing_in

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
