"""Second factors, and when somebody last authenticated in full on a device."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "totp",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
        sa.Column("last_step", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "passkeys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", sa.BigInteger, nullable=False),
    )
    op.create_index("passkeys_user", "passkeys", ["user_id"])
    op.create_table(
        "recovery_codes",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("code_hash", sa.Text, primary_key=True),
    )
    op.add_column("devices", sa.Column("confirmed_at", sa.BigInteger, nullable=False, server_default="0"))
    ended = sa.text("revoked_at IS NOT NULL")
    op.create_index("devices_ended", "devices", ["revoked_at"], sqlite_where=ended, postgresql_where=ended)
