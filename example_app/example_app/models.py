"""What the database holds."""

from datetime import datetime
from typing import Any
from uuid import UUID

from pyramid.request import Request
from sqlalchemy import DateTime, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The root of the models."""


class Note(Base):
    """A text that somebody wrote, under an id that the writer chose."""

    __tablename__ = "notes"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    text: Mapped[str]
    created: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), index=True
    )
    updated: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())

    def __json__(self, request: Request) -> dict[str, Any]:
        """Say how Pyramid's JSON renderer shows a note."""
        return {
            "id": str(self.id),
            "text": self.text,
            "created": self.created.isoformat(),
            "updated": self.updated.isoformat(),
        }
