"""A disk of a few megabytes, to be full when a test says so."""

import contextlib
import errno
import os
from pathlib import Path

from tests.support.servers.process import ServerMissing, run

__all__ = ["SmallDisk"]

CHUNK = 4096


class SmallDisk:
    """A file system of its own at `folder`, in memory; for root alone.

    :raises ServerMissing: this user may not mount one.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.folder = folder
        folder.mkdir()
        try:
            run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "none", folder)
        except (RuntimeError, OSError) as error:
            raise ServerMissing(str(error)) from error

    def __repr__(self) -> str:
        return f"<SmallDisk {self.folder}>"

    def fill(self) -> None:
        """Leave no room."""
        with open(self.folder / "filler", "ab", buffering=0) as filler:
            while True:
                try:
                    filler.write(bytes(CHUNK))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    return

    def free(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away, whoever uses it still."""
        with contextlib.suppress(RuntimeError):
            run("umount", "--lazy", self.folder)
        os.rmdir(self.folder)
