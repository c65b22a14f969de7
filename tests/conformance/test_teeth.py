"""The scenarios have teeth: pools that are known to be at fault fail them."""

import pytest

from .adapters import load
from .compare import named, run

KNOWN_FAULTS = [
    ("QueuePool", "test_newcomer_never_overtakes_a_waiter"),
    ("QueuePool", "test_failed_connect_wakes_the_next_in_line"),
    ("QueuePool", "test_returned_connection_beats_a_slow_opening"),
    ("QueuePool", "test_counters_stay_sane_over_a_dispose"),
    ("QueuePool", "test_waiter_is_served_after_a_dispose"),
    ("QueuePool", "test_full_server_is_waited_for"),
    ("QueuePool", "test_silent_connection_costs_no_round_trip"),
    ("QueuePool", "test_forked_child_opens_its_own_connections"),
    ("QueuePool", "test_slow_connect_counts_against_the_deadline"),
    ("QueuePool", "test_outage_is_probed_by_one"),
    ("psycopg_pool", "test_line_counts_only_those_who_really_wait"),
    ("psycopg_pool", "test_interrupted_waiter_takes_nothing"),
    ("psycopg_pool", "test_outage_is_named_to_every_caller"),
    ("psycopg_pool", "test_cold_start_opens_in_parallel"),
]


def load_or_skip(pool: str) -> None:
    """Skip where the peer's package is not installed."""
    try:
        load(pool)
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "scenario"), KNOWN_FAULTS)
def test_known_fault_is_found(pool: str, scenario: str) -> None:
    """A fault that was measured in a peer makes its scenario fail."""
    load_or_skip(pool)
    result = run(*named(scenario), pool)
    assert result.outcome == "fail", result


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["QueuePool", "psycopg_pool"])
def test_sound_behaviour_is_not_blamed(pool: str) -> None:
    """What the peers do well passes."""
    load_or_skip(pool)
    assert run(*named("test_invalidation_wakes_a_waiter"), pool).outcome == "pass"
