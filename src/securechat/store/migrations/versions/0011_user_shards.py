"""PostgreSQL: what hangs off a user may live in several databases, too, by buckets 256–511 of the table `buckets`.

At first all of it is at home, also where rooms have moved already: every shard that is known says that it has none of them.
"""

from alembic import op

revision = "0011"
down_revision = "0010"

SERVES = "0010"
"""The oldest revision whose servers may go on with this schema, until users move: the first move says 0011 instead."""
SLICE = r"""
CREATE FUNCTION securechat_slice(user_id text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT get_byte(sha256(decode(replace(user_id, '\', '\\'), 'escape')), 0)::bigint * 256
        + get_byte(sha256(decode(replace(user_id, '\', '\\'), 'escape')), 1)::bigint $$
"""
"""The first two bytes: a bucket is 256 slices, each of which is compared and copied by itself."""
ELSEWHERE = """
CREATE FUNCTION securechat_users_elsewhere(users text[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN EXISTS (
    SELECT 1 FROM unnest(users) AS w (id) JOIN buckets b ON b.bucket = 256 + securechat_bucket(w.id)
      WHERE b.state IN ('away', 'absent') OR (b.state = 'fenced' AND b.until > clock_timestamp()));
END $$
"""
NONE_IN_SHARDS = (
    "INSERT INTO buckets (bucket, state, shard) SELECT each, 'absent', '' FROM generate_series(256, 511) AS each"
    " WHERE EXISTS (SELECT 1 FROM settings WHERE key = 'shard') ON CONFLICT DO NOTHING"
)


def upgrade() -> None:
    """On PostgreSQL, add what buckets of users need; on SQLite, nothing."""
    if op.get_context().dialect.name != "postgresql":
        return
    for statement in (SLICE, ELSEWHERE, NONE_IN_SHARDS):
        op.execute(statement)
    op.execute(f"COMMENT ON TABLE alembic_version IS 'serves {SERVES}'")
