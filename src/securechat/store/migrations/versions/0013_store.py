"""PostgreSQL: one statement that may store some rooms of a batch, and says which have gone on.

`securechat_store` does what `securechat_append` and `securechat_commit` did, which servers of before go on calling. Where rooms
have gone on it raises nothing: it stores the others, if they are `apart`, or else nothing, and returns {room: [its last `seq`,
whether only messages were sent]}; null for a pair where more has changed in the room than its last `seq`.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

STORE = """
CREATE FUNCTION securechat_store(
  o_room text[], o_seq bigint[], k_room text[], k_version bigint[],
  e_room text[], e_seq bigint[], e_type text[], e_at bigint[], e_user text[], e_device text[], e_cmid text[], e_target bigint[],
  e_body text[], e_extra text[], e_sealed bytea[], e_emoji text[],
  m_user text[], m_room text[], m_seq bigint[], m_back boolean[],
  p_room text[], p_user text[], p_role text[], apart boolean
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  gone text[];
  said text := '{}';
  each record;
BEGIN
  IF securechat_elsewhere(o_room || m_room) THEN
    RAISE EXCEPTION 'a room lives elsewhere' USING ERRCODE = 'SC003';
  END IF;
  SELECT coalesce(array_agg(w.id) FILTER (WHERE locked.last_seq IS DISTINCT FROM w.seq), '{}') INTO gone
    FROM unnest(o_room, o_seq) AS w (id, seq)
    LEFT JOIN (SELECT r.id, r.last_seq FROM rooms r WHERE r.id = ANY (o_room) ORDER BY r.id FOR UPDATE) AS locked
    ON locked.id = w.id;
  IF cardinality(gone) > 0 THEN
    SELECT json_object_agg(w.id, CASE WHEN r.last_seq > w.seq AND n.simple THEN json_build_array(r.last_seq, n.sent) END) INTO said
      FROM unnest(o_room, o_seq) AS w (id, seq) LEFT JOIN rooms r ON r.id = w.id CROSS JOIN LATERAL (
        SELECT coalesce(bool_and(e.type = 'message.sent'), true) AS sent, coalesce(bool_and(
          e.type IN ('message.sent', 'message.edited', 'reaction.added', 'reaction.removed')), true) AS simple
        FROM entries e WHERE e.room_id = w.id AND e.seq > w.seq) AS n
      WHERE w.id = ANY (gone);
    IF NOT apart OR cardinality(gone) = cardinality(o_room) THEN
      RETURN said;
    END IF;
  END IF;
  IF cardinality(k_room) > 0 THEN
    SELECT (SELECT count(*) FROM unnest(k_room) AS w (id) WHERE w.id <> ALL (gone)) AS wanted, count(*) AS held INTO each FROM (
      SELECT 1 FROM room_keys k JOIN unnest(k_room, k_version) AS w (id, version) ON k.room_id = w.id AND k.version = w.version
        WHERE k.wrapped IS NOT NULL AND k.retired_at IS NULL AND w.id <> ALL (gone) ORDER BY k.room_id FOR SHARE OF k) AS good;
    IF each.held <> each.wanted THEN
      RAISE EXCEPTION 'a key was replaced' USING ERRCODE = 'SC002';
    END IF;
  END IF;
  IF cardinality(e_room) > 0 THEN
    INSERT INTO entries (room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, sealed)
      SELECT * FROM unnest(e_room, e_seq, e_type, e_at, e_user, e_device, e_cmid, e_target, e_body, e_extra, e_sealed)
        AS w (room_id, seq, type, at, user_id, device_id, cmid, target, body, extra, sealed) WHERE w.room_id <> ALL (gone);
    UPDATE rooms r SET last_seq = newest.seq
      FROM (SELECT id, max(seq) AS seq FROM unnest(e_room, e_seq) AS w (id, seq) WHERE id <> ALL (gone) GROUP BY id) AS newest
      WHERE r.id = newest.id AND r.id = ANY (o_room);
  END IF;
  IF 'message.edited' = ANY (e_type) THEN
    UPDATE entries t SET edit_seq = newest.seq
      FROM (SELECT id, target, max(seq) AS seq FROM unnest(e_room, e_seq, e_type, e_target) AS w (id, seq, type, target)
        WHERE type = 'message.edited' AND id <> ALL (gone) GROUP BY id, target) AS newest
      WHERE t.room_id = newest.id AND t.seq = newest.target;
  END IF;
  IF 'reaction.added' = ANY (e_type) OR 'reaction.removed' = ANY (e_type) THEN
    FOR each IN SELECT * FROM unnest(e_room, e_seq, e_type, e_user, e_target, e_emoji) WITH ORDINALITY
      AS w (id, seq, type, user_id, target, emoji, place) WHERE type LIKE 'reaction.%' AND id <> ALL (gone) ORDER BY place
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
  FOR each IN SELECT * FROM unnest(m_user, m_room, m_seq, m_back) WITH ORDINALITY AS w (user_id, room_id, seq, back, place)
    WHERE room_id <> ALL (gone) ORDER BY place
  LOOP
    INSERT INTO reads (user_id, room_id, read_seq) VALUES (each.user_id, each.room_id, each.seq)
      ON CONFLICT (user_id, room_id) DO UPDATE SET read_seq = excluded.read_seq
      WHERE each.back OR reads.read_seq < excluded.read_seq;
  END LOOP;
  IF cardinality(p_room) > 0 THEN
    DELETE FROM members m USING unnest(p_room, p_user, p_role) AS w (room_id, user_id, role)
      WHERE w.role IS NULL AND m.room_id = w.room_id AND m.user_id = w.user_id AND m.room_id = ANY (p_room)
        AND w.room_id <> ALL (gone);
    INSERT INTO members (room_id, user_id, role)
      SELECT room_id, user_id, role FROM unnest(p_room, p_user, p_role) AS w (room_id, user_id, role)
        WHERE role IS NOT NULL AND room_id <> ALL (gone)
      ON CONFLICT (room_id, user_id) DO UPDATE SET role = excluded.role;
  END IF;
  RETURN said;
END $$
"""


def upgrade() -> None:
    """On PostgreSQL, add it; on SQLite, nothing."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(STORE)
