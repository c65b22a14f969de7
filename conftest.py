"""Give the tests of the project and of the example app the same servers."""

import gc
import os
import signal
import sys
from collections.abc import Iterator

import hypothesis
import pytest

pytest_plugins = [
    "pytester",
    "tests.support.makers",
    "tests.support.answering",
    "tests.support.holding",
    "tests.support.happened",
    "tests.support.servers.fixtures",
]

# Started in the background, as by `make test &`, pytest ignores Ctrl-C, and so
# would the programs that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# PyMySQL reads these for each connection, TLS or not: a system's certificates take 20 ms.
os.environ["SSL_CERT_FILE"] = os.devnull

# A busy machine would fail what takes 0.2 s, and chance what nobody has changed. To let chance
# look for more: --hypothesis-profile=default.
hypothesis.settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Keep what is there before the first test from every full collection that a test asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_handled_for_ever() -> Iterator[None]:
    """Fail the test that leaves an exception being handled: later ones would be told of it."""
    before = sys.exception()
    yield
    assert sys.exception() is before
