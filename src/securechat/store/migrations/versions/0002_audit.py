"""The audit log: one hash chain per writing process."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the chain's table."""
    words = ("action", "actor", "device", "address", "subject", "room", "result", "reason", "details", "hash")
    op.create_table(
        "audit",
        sa.Column("chain", sa.Text, primary_key=True),
        sa.Column("n", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        *(sa.Column(word, sa.Text, nullable=False) for word in words),
    )
    op.create_index("audit_at", "audit", ["at"])
    op.create_index("audit_actor", "audit", ["actor", "n"])
    op.create_index("audit_subject", "audit", ["subject", "n"])
