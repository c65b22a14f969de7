"""Programs that tests run in a process of their own."""

import subprocess
import sys


def run_program(program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python code to its end, for a minute at most, and give what it printed."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        timeout=60,
        capture_output=True,
        check=False,
        text=True,
    )
