"""Accounts at other providers, apps that people let in, and what a token may do."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create them; every session that exists stays a person's own."""
    op.create_table(
        "externals",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_used_at", sa.BigInteger, nullable=False),
    )
    op.create_index("externals_subject", "externals", ["issuer", "subject"], unique=True)
    op.create_index("externals_user", "externals", ["user_id"])
    op.create_table(
        "apps",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("secret_hash", sa.Text),
        sa.Column("redirect_uris", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("device_flow", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "codes",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("app", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("redirect_uri", sa.Text, nullable=False),
        sa.Column("challenge", sa.Text, nullable=False),
        sa.Column("user_code", sa.Text, nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.Column("device_id", sa.Text, nullable=False),
        sa.Column("polled_at", sa.BigInteger, nullable=False),
    )
    op.create_index("codes_expiry", "codes", ["expires_at"])
    typed = sa.text("user_code <> ''")
    op.create_index("codes_user_code", "codes", ["user_code"], sqlite_where=typed, postgresql_where=typed)
    op.add_column("devices", sa.Column("app", sa.Text))
    op.add_column("devices", sa.Column("scopes", sa.Text))
    op.add_column("devices", sa.Column("expires_at", sa.BigInteger))
    theirs = sa.text("app IS NOT NULL")
    op.create_index("devices_app", "devices", ["app"], sqlite_where=theirs, postgresql_where=theirs)
