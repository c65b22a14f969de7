"""Child processes that end with their parent, and ports for them to listen on."""

import os
import random
import signal
import socket
import sys
from collections.abc import Iterable

__all__ = ["free_port", "lifeline"]

# The death signal is set last: a change of credentials clears it. The check of
# the parent comes after it: a parent that died before would never be noticed.
_WRAPPER = """
import _signal
_signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # else Ctrl-C now prints a traceback
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


def free_port() -> int:
    """Choose a TCP port that nobody listens on at 127.0.0.1.

    It lies below the range from which systems take the ports of outgoing
    connections, so that no client takes it while a server restarts. Somebody may
    still take it first: whoever listens on it tries again with another one.

    :raises OSError: there is none.
    """
    for _ in range(200):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as probe:
            # Without it, connections that a stopped server has closed block its port.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free TCP port between 15000 and 32000 at 127.0.0.1")
