"""PostgreSQL: rooms may live in several databases, by bucket; a commit finds out in its own transaction that one lives elsewhere.

`buckets` has a row for each bucket that is not plainly here; where nothing was ever moved, it is empty:

    moving  here, and being copied to `shard`: the texts of its rooms are not sealed anew until `until`
    fenced  here, and not written to until `until`
    away    gone to `shard`, which may not know it yet
    absent  not here

Whoever writes reads it first, and so holds a lock on it until the end of the transaction; whoever fences takes it for itself.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

T = 'text COLLATE "C"'
SERVES = "0008"
"""The oldest revision whose servers may go on with this schema, as long as nothing is moved."""
BUCKET = r"""
CREATE FUNCTION securechat_bucket(room_id text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
$$ SELECT get_byte(sha256(decode(replace(room_id, '\', '\\'), 'escape')), 0)::bigint $$
"""
"""Only of what is immutable, so that it is part of the statement that uses it, and no call: a fifth of the time."""
ELSEWHERE = """
CREATE FUNCTION securechat_elsewhere(rooms text[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF NOT EXISTS (SELECT 1 FROM buckets) THEN
    RETURN false;
  END IF;
  RETURN EXISTS (
    SELECT 1 FROM unnest(rooms) AS w (id) JOIN buckets b ON b.bucket = securechat_bucket(w.id)
      WHERE b.state IN ('away', 'absent') OR (b.state = 'fenced' AND b.until > clock_timestamp()));
END $$
"""
APPEND = """
CREATE OR REPLACE FUNCTION securechat_append(
  o_room text[], o_seq bigint[], k_room text[], k_version bigint[],
  e_room text[], e_seq bigint[], e_type text[], e_at bigint[], e_user text[], e_device text[], e_cmid text[], e_target bigint[],
  e_body text[], e_extra text[], e_sealed bytea[], e_emoji text[],
  m_user text[], m_room text[], m_seq bigint[], m_back boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  held bigint;
  each record;
BEGIN
  IF securechat_elsewhere(o_room || m_room) THEN
    RAISE EXCEPTION 'a room lives elsewhere' USING ERRCODE = 'SC003';
  END IF;
  SELECT count(*) INTO held
    FROM (SELECT r.id, r.last_seq FROM rooms r WHERE r.id = ANY (o_room) ORDER BY r.id FOR UPDATE) AS locked
    JOIN unnest(o_room, o_seq) AS wanted (id, seq) ON wanted.id = locked.id AND wanted.seq = locked.last_seq;
  IF held <> cardinality(o_room) THEN
    RAISE EXCEPTION 'a room has gone on' USING ERRCODE = 'SC001';
  END IF;
  IF cardinality(k_room) > 0 THEN
    SELECT count(*) INTO held FROM (
      SELECT 1 FROM room_keys k JOIN unnest(k_room, k_version) AS wanted (id, version)
        ON k.room_id = wanted.id AND k.version = wanted.version
        WHERE k.wrapped IS NOT NULL AND k.retired_at IS NULL FOR SHARE OF k) AS good;
    IF held <> cardinality(k_room) THEN
      RAISE EXCEPTION 'a key was replaced' USING ERRCODE = 'SC002';
    END IF;
  END IF;
  IF cardinality(e_room) > 0 THEN
    INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, sealed)
      SELECT * FROM unnest(e_room, e_seq, e_type, e_at, e_user, e_device, e_cmid, e_target, e_body, e_extra, e_sealed);
    UPDATE rooms r SET last_seq = newest.seq
      FROM (SELECT id, max(seq) AS seq FROM unnest(e_room, e_seq) AS all_of (id, seq) GROUP BY id) AS newest
      WHERE r.id = newest.id AND r.id = ANY (o_room);
  END IF;
  IF 'message.edited' = ANY (e_type) THEN
    UPDATE entries t SET edit_seq = newest.seq
      FROM (SELECT id, target, max(seq) AS seq FROM unnest(e_room, e_seq, e_type, e_target) AS all_of (id, seq, type, target)
        WHERE type = 'message.edited' GROUP BY id, target) AS newest
      WHERE t.room_id = newest.id AND t.seq = newest.target;
  END IF;
  IF 'reaction.added' = ANY (e_type) OR 'reaction.removed' = ANY (e_type) THEN
    FOR each IN SELECT * FROM unnest(e_room, e_seq, e_type, e_user, e_target, e_emoji) WITH ORDINALITY
      AS all_of (id, seq, type, user_id, target, emoji, place) WHERE type LIKE 'reaction.%' ORDER BY place
    LOOP
      IF each.type = 'reaction.added' THEN
        INSERT INTO reactions (room_id, seq, emoji, user_id, added_seq)
          VALUES (each.id, each.target, each.emoji, each.user_id, each.seq);
      ELSE
        DELETE FROM reactions x
          WHERE x.room_id = each.id AND x.seq = each.target AND x.emoji = each.emoji AND x.user_id = each.user_id;
      END IF;
    END LOOP;
  END IF;
  FOR each IN SELECT * FROM unnest(m_user, m_room, m_seq, m_back) WITH ORDINALITY AS all_of (user_id, room_id, seq, back, place)
    ORDER BY place
  LOOP
    INSERT INTO reads (user_id, room_id, read_seq) VALUES (each.user_id, each.room_id, each.seq)
      ON CONFLICT (user_id, room_id) DO UPDATE SET read_seq = excluded.read_seq
      WHERE each.back OR reads.read_seq < excluded.read_seq;
  END LOOP;
END $$
"""


def upgrade() -> None:
    """On PostgreSQL, add what buckets need; on SQLite, nothing."""
    if op.get_context().dialect.name != "postgresql":
        return
    columns = f"bucket bigint NOT NULL, state {T} NOT NULL, shard {T} NOT NULL, until timestamptz"
    op.execute(f"CREATE TABLE buckets ({columns}, PRIMARY KEY (bucket))")
    # What commits beside a room and belongs into the audit log, which is at home: written here first, then there, once.
    op.execute(f"CREATE TABLE audit_pending (id {T} NOT NULL, events {T} NOT NULL, PRIMARY KEY (id))")
    op.execute(f"CREATE TABLE audit_taken (id {T} NOT NULL, PRIMARY KEY (id))")
    for function in (BUCKET, ELSEWHERE, APPEND):
        op.execute(function)
    op.execute(f"COMMENT ON TABLE alembic_version IS 'serves {SERVES}'")
