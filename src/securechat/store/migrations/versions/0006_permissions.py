"""What a room decides for itself: the least role for single actions."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"


def upgrade() -> None:
    """Every room begins with the defaults."""
    op.add_column("rooms", sa.Column("permissions", sa.Text, nullable=False, server_default="{}"))
