"""A child never uses or closes a connection of its parent, however it was forked."""

import json
import subprocess
import sys
from typing import Any

import pytest

GOOD = {
    "child": {
        "use of the held session": "ForkedConnectionError",
        "commit of the held session": "ForkedConnectionError",
        "close of the held session": "no error",
        "same engine": True,
        "own backend": True,
    },
    "parent unharmed": True,
}


def run(url: str, how: str, *connect_args: str) -> Any:
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.fork_script", url, how, *connect_args],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


@pytest.mark.parametrize("how", ["fork", "multiprocessing", "without-hooks"])
def test_parent_and_child_keep_to_themselves(any_url: str, how: str) -> None:
    """The child has a pool of its own, refuses what it inherited, and ends without a trace."""
    assert run(any_url, how) == GOOD
