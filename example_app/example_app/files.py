"""kombu's `filesystem://`, without what makes it lose messages, or end its reader.

kombu writes a message into the folder where the reader looks: now and then the
reader takes a file that is still empty, and the message is gone. Here it appears
there complete. And a file that is no message is put aside: kombu would raise its
error out of the reader's loop.
"""

import logging
from contextlib import suppress
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps, loads

log = logging.getLogger(__name__)


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu says no types
    """Writes each message beside its place, and moves it there."""

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        place = Path(self.data_folder_out) / f"{time_ns()}_{uuid4()}.{queue}.msg"
        draft = place.with_suffix(".draft")
        draft.write_text(dumps(payload))
        draft.rename(place)

    def _get(self, queue: str) -> dict[str, Any]:
        for path in sorted(Path(self.data_folder_in).iterdir()):
            if path.name.partition(".")[2] == f"{queue}.msg":
                # Another reader may be faster, at any point.
                with suppress(FileNotFoundError):
                    payload = self._read(path)
                    if payload is not None:
                        path.unlink()
                        return payload
        raise Empty

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            payload: dict[str, Any] = loads(path.read_bytes())
            self.Message(payload, channel=self)
        except FileNotFoundError:
            raise
        except Exception as error:
            aside = path.rename(path.with_suffix(".bad"))
            log.error("A file is no message, put aside as %s: %r", aside, error)
            return None
        return payload


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu says no types
    """The transport with that channel."""

    Channel = Channel
