"""The foundation: accounts, rooms, the log.

Every key of a room's table begins with the room, every key of a user's table with the user, so that both can be partitioned.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("username", sa.Text, nullable=False, unique=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("disabled_at", sa.BigInteger),
    )
    op.create_index("users_name_key", "users", ["name_key"])
    op.create_table(
        "devices",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("refreshed_at", sa.BigInteger, nullable=False),
        sa.Column("refresh_family", sa.Text),
        sa.Column("refresh_hash", sa.Text),
        sa.Column("previous_hash", sa.Text),
        sa.Column("token_hash", sa.Text),
        sa.Column("revoked_at", sa.BigInteger),
    )
    op.create_index("devices_user", "devices", ["user_id"])
    op.create_index("devices_refresh", "devices", ["refresh_family"])
    op.create_index("devices_token", "devices", ["token_hash"])
    op.create_table(
        "invites",
        sa.Column("code", sa.Text, primary_key=True),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("uses_left", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("rooms", sa.Text, nullable=False),
    )
    op.create_table(
        "links",
        sa.Column("token_hash", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "blocks",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("blocked", sa.Text, primary_key=True),
    )
    op.create_table(
        "commands",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("definition", sa.Text, nullable=False),
    )
    op.create_table("settings", sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.create_table(
        "rooms",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("topic", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    public = sa.text("kind = 'public'")
    op.create_index("rooms_public_name", "rooms", ["name_key"], unique=True, sqlite_where=public, postgresql_where=public)
    op.create_table(
        "members",
        sa.Column("room_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
    )
    op.create_index("members_user", "members", ["user_id", "room_id"])
    op.create_table(
        "reads",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("room_id", sa.Text, primary_key=True),
        sa.Column("read_seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "entries",
        sa.Column("room_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("device_id", sa.Text),
        sa.Column("cmid", sa.Text),
        sa.Column("target", sa.BigInteger),
        sa.Column("body", sa.Text),
        sa.Column("extra", sa.Text),
        sa.Column("edit_seq", sa.BigInteger),
        sa.Column("deleted_seq", sa.BigInteger),
    )
    with_cmid = sa.text("cmid IS NOT NULL")
    op.create_index(
        "entries_cmid",
        "entries",
        ["room_id", "device_id", "cmid"],
        unique=True,
        sqlite_where=with_cmid,
        postgresql_where=with_cmid,
    )
    with_target = sa.text("target IS NOT NULL")
    op.create_index("entries_target", "entries", ["room_id", "target"], sqlite_where=with_target, postgresql_where=with_target)
    op.create_table(
        "reactions",
        sa.Column("room_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("emoji", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("added_seq", sa.BigInteger, nullable=False),
    )
