"""Child processes that end with their parent."""

import os
import signal
import sys
from collections.abc import Iterable

__all__ = ["lifeline"]

# The death signal is set last: a change of credentials clears it. The check of
# the parent comes after it: a parent that died before would never be noticed.
_WRAPPER = """
import _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # Ctrl-C would print a traceback now
import ctypes, os, sys
parent, leave_root, death = (int(word) for word in sys.argv[1:4])
if sys.platform == "linux":
    libc = ctypes.CDLL(None, use_errno=True)
    if leave_root and os.geteuid() == 0 and libc.unshare(0x10000000):
        sys.exit("this command refuses to run as root, and root cannot leave it here: "
                 + os.strerror(ctypes.get_errno())
                 + "; run as another user, or allow user namespaces")
    libc.prctl(1, death)
    if os.getppid() != parent:
        sys.exit("the parent process has gone")
os.execv(sys.argv[4], sys.argv[4:])
"""


def lifeline(
    command: Iterable[str | os.PathLike[str]],
    *,
    leave_root: bool = False,
    death: signal.Signals = signal.SIGINT,
) -> list[str]:
    """Wrap a command so that the kernel ends it when the thread that starts it ends.

    The command's first word is the path of a program. `death` is the signal that it
    gets then; `leave_root` runs it, when root calls, in a user namespace where it is
    nobody. Elsewhere than on Linux only the command itself runs. Example::

        subprocess.Popen(lifeline([sys.executable, "-m", "worker"]))
    """
    wrapper = [sys.executable, "-I", "-S", "-c", _WRAPPER]
    arguments = [os.getpid(), int(leave_root), int(death)]
    return [*wrapper, *map(str, arguments), *(os.fspath(word) for word in command)]
