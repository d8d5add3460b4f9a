"""Subscriptions of rooms (outgoing webhooks), and what could not be delivered."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

T = 'text COLLATE "C"'
SERVES = "0009"
"""The oldest revision whose servers may go on with this schema: they send nothing, and show the notices as changes of the room."""
SUBSCRIPTIONS = (
    f"id {T} NOT NULL, room_id {T} NOT NULL, url {T} NOT NULL, types {T} NOT NULL, state {T} NOT NULL, reason {T} NOT NULL,"
    f" cursor_seq bigint NOT NULL, secret bytea NOT NULL, old_secret bytea, old_until bigint NOT NULL, created_by {T} NOT NULL,"
    " created_at bigint NOT NULL, attempts bigint NOT NULL, first_at bigint NOT NULL, next_at bigint NOT NULL,"
    " failing_since bigint NOT NULL, delivered_at bigint NOT NULL, PRIMARY KEY (id)"
)
DEAD_LETTERS = (
    f"subscription_id {T} NOT NULL, seq bigint NOT NULL, room_id {T} NOT NULL, reason {T} NOT NULL, status bigint NOT NULL,"
    " attempts bigint NOT NULL, first_at bigint NOT NULL, last_at bigint NOT NULL, replay_at bigint NOT NULL,"
    " PRIMARY KEY (subscription_id, seq)"
)


def upgrade() -> None:
    """Create them."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"CREATE TABLE subscriptions ({SUBSCRIPTIONS})")
        op.execute(f"CREATE TABLE dead_letters ({DEAD_LETTERS})")
    else:
        op.create_table(
            "subscriptions",
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("room_id", sa.Text, nullable=False),
            sa.Column("url", sa.Text, nullable=False),
            sa.Column("types", sa.Text, nullable=False),
            sa.Column("state", sa.Text, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("cursor_seq", sa.BigInteger, nullable=False),
            sa.Column("secret", sa.LargeBinary, nullable=False),
            sa.Column("old_secret", sa.LargeBinary),
            sa.Column("old_until", sa.BigInteger, nullable=False),
            sa.Column("created_by", sa.Text, nullable=False),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            sa.Column("attempts", sa.BigInteger, nullable=False),
            sa.Column("first_at", sa.BigInteger, nullable=False),
            sa.Column("next_at", sa.BigInteger, nullable=False),
            sa.Column("failing_since", sa.BigInteger, nullable=False),
            sa.Column("delivered_at", sa.BigInteger, nullable=False),
        )
        op.create_table(
            "dead_letters",
            sa.Column("subscription_id", sa.Text, primary_key=True),
            sa.Column("seq", sa.BigInteger, primary_key=True),
            sa.Column("room_id", sa.Text, nullable=False),
            sa.Column("reason", sa.Text, nullable=False),
            sa.Column("status", sa.BigInteger, nullable=False),
            sa.Column("attempts", sa.BigInteger, nullable=False),
            sa.Column("first_at", sa.BigInteger, nullable=False),
            sa.Column("last_at", sa.BigInteger, nullable=False),
            sa.Column("replay_at", sa.BigInteger, nullable=False),
        )
    op.create_index("subscriptions_room", "subscriptions", ["room_id"])
    waiting = sa.text("replay_at > 0")
    op.create_index("dead_letters_replay", "dead_letters", ["subscription_id"], sqlite_where=waiting, postgresql_where=waiting)
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"COMMENT ON TABLE alembic_version IS 'serves {SERVES}'")
