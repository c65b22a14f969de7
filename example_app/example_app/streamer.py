"""Show every note as it is stored: `python -m example_app.streamer development.ini`."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from kombu import Message
from sqlalchemy.orm import Session

from example_app import broker, ini
from example_app.models import Note
from pyramid_dbpool import consume


def main(argv: Sequence[str] | None = None) -> int:
    """Run the streamer until SIGTERM or Ctrl-C."""
    settings = ini.read_command_line(__doc__, argv)
    with (
        ini.one_line_errors("streamer"),
        suppress(KeyboardInterrupt),
        broker.Inbox(settings) as inbox,
    ):
        consume(
            inbox,
            show,
            settings,
            ack=broker.ack,
            on_error=drop,
            stop_on_sigterm=True,
            # Waits for a snapshot that no other transaction can spoil.
            isolation_level="SERIALIZABLE",
            read_only=True,
            deferrable=True,
        )
    return 0


def show(message: Message, session: Session) -> None:
    """Print the note that a message is about."""
    note = session.get(Note, UUID(message.payload["id"]))
    if note is not None:
        # Quoted, because a text could hold what moves a terminal's cursor.
        print(f"{note.updated.astimezone():%H:%M:%S} note {note.id}: {note.text!r}", flush=True)


def drop(message: Message, error: Exception) -> None:
    """Drop a message that cannot be shown; `consume` has logged the error."""
    broker.reject(message)


if __name__ == "__main__":
    sys.exit(main())
