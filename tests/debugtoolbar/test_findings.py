"""What is worth a sentence."""

from dataclasses import replace

import pytest

from pyramid_dbpool.debugtoolbar.findings import findings
from pyramid_dbpool.debugtoolbar.recording import Checkout, Recording

FIRST = Checkout("default", asked=10.0, taken=10.0, returned=20.0, by="request.db")
SECOND = Checkout("default", asked=11.0, taken=11.0, returned=12.0, by="job")


def said(*checkouts: Checkout) -> str:
    """Give what is said of a request with these checkouts."""
    recording = Recording([])
    recording.checkouts = list(checkouts)
    recording.ended = 30.0
    return "\n".join(each.text for each in findings(recording, 40.0))


def test_a_second_connection_beside_the_first() -> None:
    """Of the same pool and in the same thread, while the first one is held."""
    assert "job asked for a connection of pool 'default' while request.db" in said(FIRST, SECOND)


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, pool="audit"),
        replace(SECOND, thread="helper"),
        replace(SECOND, asked=20.0, taken=20.0, returned=21.0),
    ],
    ids=["another pool", "another thread", "afterwards"],
)
def test_a_second_connection_that_waits_for_nobody(second: Checkout) -> None:
    """Nothing is said of it."""
    assert said(FIRST, second) == ""


def test_a_first_one_that_was_refused() -> None:
    """It is held by nobody."""
    refused = replace(FIRST, refusal="no connection came free")
    assert "while" not in said(refused, SECOND)


def test_a_long_wait() -> None:
    """From a tenth of a second on."""
    assert said(replace(SECOND, asked=10.95)) == ""
    assert said(replace(SECOND, asked=10.5)) == (
        "job waited 500 ms for a connection of pool 'default'."
    )


def test_idle_holds() -> None:
    """What is short, or a small part of the hold, is nothing to be told of."""
    assert said(replace(SECOND, longest_idle=0.05, returned=11.05)) == ""
    assert said(replace(FIRST, longest_idle=4.0)) == ""
    assert "without a statement" in said(replace(FIRST, longest_idle=6.0))
