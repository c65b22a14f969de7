"""Which transaction wrote a note, for those who catch up."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Go to this revision."""
    this_transaction = sa.text("(pg_current_xact_id()::text::bigint)")
    op.add_column(
        "notes",
        sa.Column("written_in", sa.BigInteger(), server_default=this_transaction, nullable=False),
    )
    op.create_index("ix_notes_written_in", "notes", ["written_in"])


def downgrade() -> None:
    """Go back to the one before."""
    op.drop_column("notes", "written_in")
