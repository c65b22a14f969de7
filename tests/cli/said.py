"""What a run of the command has printed."""

from collections.abc import Callable


class Said:
    """What a run has printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err
        assert "s3cret" not in out + err
        assert "Traceback" not in out + err


Run = Callable[..., Said]


def one_line(said: Said) -> str:
    """Return the only line of the errors."""
    (line,) = said.err.splitlines()
    assert line.startswith("pdbpool: ")
    return line
