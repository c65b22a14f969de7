"""What a log line calls a message; never its content, which may be secret."""

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

__all__ = ["MessageName"]

log = logging.getLogger(__name__)

M = TypeVar("M")

# An attribute of another type may be the message's content, or any object.
IDENTITY_TYPES = (str, int, bytes, uuid.UUID)


@dataclass(eq=False)  # frozen, it would take three times as long to make, for each message
class MessageName(Generic[M]):
    """A message's name, made at the first log line that needs it."""

    message: M
    number: int
    identify: Callable[[M], object] | None

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        # Once for all log lines: an `identify` that fails warns once a message.
        try:
            found = (self.identify or _find_identity)(self.message)
        except Exception as error:
            found = None
            log.warning("message #%d cannot be identified: %s", self.number, type(error).__name__)
        if found is None:
            return f"message #{self.number}"
        text = found.decode(errors="replace") if isinstance(found, bytes) else str(found)
        # As a literal: a line break in it must not look like another line of the log.
        return f"message {text[:100]!r}"


def _find_identity(message: Any) -> object:
    properties = getattr(message, "properties", None)
    candidates = (
        getattr(message, "message_id", None),
        getattr(message, "id", None),
        properties.get("message_id") if isinstance(properties, Mapping) else None,
        getattr(message, "delivery_tag", None),
        message.get("id") if isinstance(message, Mapping) else None,
    )
    return next((found for found in candidates if isinstance(found, IDENTITY_TYPES)), None)
