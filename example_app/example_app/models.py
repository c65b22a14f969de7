"""What the database holds."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pyramid.request import Request
from sqlalchemy import BigInteger, DateTime, Text, func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

# The transaction that asks. What `earliest_open` has already overtaken is over: committed and
# visible to whoever asked, or rolled back. Ids and times are no such mark: they are taken
# before the commit, so the lower one may become visible after the higher one.
this_transaction = text("(pg_current_xact_id()::text::bigint)")
earliest_open = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")


class Base(DeclarativeBase):
    """The root of the models."""


class Note(Base):
    """A text that somebody wrote, under an id that the writer chose."""

    __tablename__ = "notes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), index=True
    )
    updated: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    # In a database restored from a dump the numbers begin anew: update it to its DEFAULT there.
    written_in: Mapped[int] = mapped_column(
        BigInteger, server_default=this_transaction, index=True
    )

    def shown(self) -> dict[str, Any]:
        """Say what clients see of a note."""
        return {
            "id": str(self.id),
            "text": self.text,
            "created": self.created.astimezone(UTC).isoformat(),
            "updated": self.updated.astimezone(UTC).isoformat(),
        }

    def __json__(self, request: Request) -> dict[str, Any]:
        """Say how Pyramid's JSON renderer shows a note."""
        return self.shown()


def write_note(session: Session, note_id: UUID, words: str) -> Note:
    """Create a note or replace its text."""
    upsert = insert(Note).values(id=note_id, text=words)
    # One statement: of two first writes at once, the second replaces, and none fails.
    upsert = upsert.on_conflict_do_update(
        index_elements=[Note.id],
        set_={
            "text": upsert.excluded.text,
            "updated": func.clock_timestamp(),
            "written_in": this_transaction,
        },
    )
    return session.scalars(upsert.returning(Note)).one()
