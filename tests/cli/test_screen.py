"""`pdbpool top` at a terminal: what it shows, its keys, its end."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping

import pytest

from tests.support.answering import Answering
from tests.support.reports import holder, pool, report
from tests.support.terminals import Terminal

pytestmark = pytest.mark.slow

COMMAND = ("-m", "pyramid_dbpool.cli.pdbpool", "top", "--timeout", "30", "--run-dir")
COLOUR = re.compile(r"\x1b\[[0-9;]*3[1-7]m")
ALTERNATE, BACK = "\x1b[?1049h", "\x1b[?1049l"


QUICK = ("--seconds", "0.2")


def terminal(answering: Answering, *args: str, env: Mapping[str, str] = {}) -> Terminal:
    """Start `top` for two processes, the one with the lower number calm."""
    answering.add(report(11))
    answering.add(report(12, [pool(holders=[holder(seconds=63.0)], refused={"timeout": 1})]))
    return Terminal(*COMMAND, str(answering.folder), *(args or QUICK), env=env)


def test_it_shows_what_is_now_until_q(answering: Answering) -> None:
    """And leaves the terminal as it was."""
    with terminal(answering) as shown:
        first = shown.shows("63s")
        assert ALTERNATE in first
        assert "2 processes" in first
        answering.add(report(12, [pool(outage_seconds=12.0)]))
        assert COLOUR.search(shown.shows("away 12s"))
        shown.press("q")
        assert shown.ends() == 0
        assert BACK in shown.written
        assert "\x1b[?25h" in shown.written, "the cursor is back"
        assert shown.settings() == shown.before


def test_keys_sort_and_help(answering: Answering) -> None:
    """As in `top`; a key that is none of them, and one that sends a sequence, do nothing."""
    with terminal(answering) as shown:
        shown.shows("by waiting")
        for key, words in (("u", "used"), ("h", "longest hold"), ("p", "pid"), ("w", "waiting")):
            shown.press(key)
            shown.shows(f"by {words}")
        shown.press("x\x1b[15~?")
        shown.shows("most waiting first")
        shown.press("?\x1b[B\x1b[A ")
        shown.shows("by waiting")
        shown.press("Q")
        assert shown.ends() == 0


def test_it_takes_the_width_that_there_is(answering: Answering) -> None:
    """More columns in a wider terminal, from the moment when it is one; nothing wraps."""
    with terminal(answering) as shown:
        narrow = shown.shows("Held by")
        assert "Wait99" in narrow
        shown.resize(140, 40)
        shown.shows("Connect p50/p99")
        shown.resize(60, 10)
        shown.shows("…")


def test_ctrl_c_and_kill_end_it_cleanly(answering: Answering) -> None:
    """The terminal is as before, whoever ends it."""
    with terminal(answering) as shown:
        shown.shows("63s")
        shown.press("\x03")
        assert shown.ends() == 0
        assert BACK in shown.written
        assert "Traceback" not in shown.written
        assert shown.settings() == shown.before
    with terminal(answering) as shown:
        shown.shows("63s")
        shown.program.send_signal(signal.SIGTERM)
        assert shown.ends() == 128 + signal.SIGTERM
        assert BACK in shown.written
        assert shown.settings() == shown.before


def test_ctrl_z_gives_the_terminal_back_for_a_while(answering: Answering) -> None:
    """To the shell; and `fg` goes on where it was."""
    answering.add(report(12, [pool(holders=[holder(seconds=63.0)])]))
    shell = "import os; os.execlp('bash', 'bash', '--norc', '--noprofile', '-i')"
    with Terminal("-c", shell, env={"PS1": "ready> ", "HISTFILE": ""}) as shown:
        shown.shows("ready>")
        shown.press(shlex.join([sys.executable, *COMMAND, str(answering.folder), *QUICK]) + "\n")
        shown.shows("63s")
        shown.press("\x1a")
        assert BACK in shown.shows("Stopped")
        shown.press("echo still $((40 + 2))\n")
        shown.shows("still 42")
        shown.press("fg\n")
        assert ALTERNATE in shown.shows("63s")
        shown.press("q")
        shown.shows("ready>")
        shown.press("exit\n")
        assert shown.ends() == 0


def test_processes_that_have_gone_may_come_back(answering: Answering) -> None:
    """Who restarts an app wants to see that."""
    with terminal(answering) as shown:
        shown.shows("63s")
        away = answering.folder.with_name("away")
        answering.folder.rename(away)
        shown.shows("there is no such folder")
        away.rename(answering.folder)
        shown.shows("63s")


def test_no_color_is_respected(answering: Answering) -> None:
    """What a colour says is said by a word as well."""
    answering.add(report(13, [pool(outage_seconds=12.0)]))
    with terminal(answering, env={"NO_COLOR": "1"}) as shown:
        assert not COLOUR.search(shown.shows("away 12s"))


@pytest.mark.parametrize(("args", "env"), [(["--once"], {}), (["--sort", "p"], {"TERM": "dumb"})])
def test_it_can_be_one_frame_at_a_terminal(
    answering: Answering, args: list[str], env: Mapping[str, str]
) -> None:
    """Asked for, or where the terminal can do no more; within its width."""
    with terminal(answering, *args, env=env) as shown:
        assert shown.ends() == 0
        assert ALTERNATE not in shown.written
        assert "Wait99" in shown.written
        assert max(len(line) for line in shown.written.splitlines()[2:]) <= 80


def test_without_rich_it_is_one_frame_and_a_hint(answering: Answering) -> None:
    """The rest of the package needs no rich."""
    code = (
        "import sys, importlib.util as u; found = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'rich' else found(name, *a);"
        "from pyramid_dbpool.cli.pdbpool import main; sys.exit(main())"
    )
    answering.add(report(11))
    with Terminal(
        "-c", code, "top", "--timeout", "30", "--run-dir", str(answering.folder)
    ) as shown:
        assert shown.ends() == 0
        assert "pip install 'pyramid_dbpool[cli]'" in shown.written
        assert ALTERNATE not in shown.written


def test_a_reader_that_has_seen_enough_is_no_error(answering: Answering) -> None:
    """As in `pdbpool top --count 9 | head -1`."""
    answering.add(report(11))
    args = [*COMMAND, str(answering.folder), "--seconds", "0.2", "--count", "9"]
    command = f"{shlex.join([sys.executable, *args])} | head -1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("pdbpool top")
