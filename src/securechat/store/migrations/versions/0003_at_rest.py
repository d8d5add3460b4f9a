"""Encryption at rest: sealed texts, the keys that seal them, and the jobs that seal again what is there."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column of sealed texts, and three tables."""
    op.add_column("entries", sa.Column("sealed", sa.LargeBinary))
    op.create_table(
        "org_keys",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("org_id", sa.Text, nullable=False),
        sa.Column("kek", sa.BigInteger, nullable=False),
        sa.Column("wrapped", sa.LargeBinary, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "room_keys",
        sa.Column("room_id", sa.Text, primary_key=True),
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("org_version", sa.BigInteger, nullable=False),
        sa.Column("wrapped", sa.LargeBinary),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False),
        sa.Column("retired_at", sa.BigInteger),
        sa.Column("destroyed_at", sa.BigInteger),
        sa.Column("erased_seq", sa.BigInteger),
    )
    op.create_index("room_keys_org", "room_keys", ["org_version"])
    op.create_table(
        "storage_jobs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("room_id", sa.Text, nullable=False),
        sa.Column("cursor_room", sa.Text, nullable=False),
        sa.Column("cursor_seq", sa.BigInteger, nullable=False),
        sa.Column("until_seq", sa.BigInteger),
        sa.Column("done", sa.BigInteger, nullable=False),
        sa.Column("damaged", sa.BigInteger, nullable=False),
        sa.Column("total", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger),
    )
