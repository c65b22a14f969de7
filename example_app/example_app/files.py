"""kombu's `filesystem://`, without the messages that it loses.

kombu writes a message into the folder where the reader looks: now and then the
reader takes a file that is still empty, and the message is gone. Here it appears
there complete.
"""

from pathlib import Path
from time import time_ns
from typing import Any
from uuid import uuid4

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu says no types
    """Writes each message beside its place, and moves it there."""

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        place = Path(self.data_folder_out) / f"{time_ns()}_{uuid4()}.{queue}.msg"
        draft = place.with_suffix(".draft")
        draft.write_text(dumps(payload))
        draft.rename(place)


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu says no types
    """The transport with that channel."""

    Channel = Channel
