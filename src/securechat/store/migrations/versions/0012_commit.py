"""PostgreSQL: one statement stores who comes and who goes, too; and tells who comes too late where the rooms are now.

The detail of that refusal is {room: [its last `seq`, whether only messages were sent]}, of the rooms that have gone on; null where
the room has to be read, since more has changed in it than its last `seq`. Servers of before take no notice of it, and call
`securechat_append` as they did.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

GONE_ON = """
CREATE FUNCTION securechat_gone_on(o_room text[], o_seq bigint[]) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
  RETURN (
    SELECT json_object_agg(r.id, CASE WHEN r.last_seq > w.seq AND n.simple THEN json_build_array(r.last_seq, n.sent) END)
    FROM unnest(o_room, o_seq) AS w (id, seq) JOIN rooms r ON r.id = w.id CROSS JOIN LATERAL (
      SELECT coalesce(bool_and(e.type = 'message.sent'), true) AS sent, coalesce(bool_and(
        e.type IN ('message.sent', 'message.edited', 'reaction.added', 'reaction.removed')), true) AS simple
      FROM entries e WHERE e.room_id = w.id AND e.seq > w.seq) AS n
    WHERE r.last_seq <> w.seq);
END $$
"""
TOLD = """
DO $do$ BEGIN
  EXECUTE replace(pg_get_functiondef('securechat_append'::regproc),
    $$'a room has gone on' USING ERRCODE = 'SC001'$$,
    $$'a room has gone on' USING ERRCODE = 'SC001', DETAIL = coalesce(securechat_gone_on(o_room, o_seq), '{}')$$);
END $do$
"""
COMMIT = """
CREATE FUNCTION securechat_commit(
  o_room text[], o_seq bigint[], k_room text[], k_version bigint[],
  e_room text[], e_seq bigint[], e_type text[], e_at bigint[], e_user text[], e_device text[], e_cmid text[], e_target bigint[],
  e_body text[], e_extra text[], e_sealed bytea[], e_emoji text[],
  m_user text[], m_room text[], m_seq bigint[], m_back boolean[],
  p_room text[], p_user text[], p_role text[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM securechat_append(
    o_room, o_seq, k_room, k_version, e_room, e_seq, e_type, e_at, e_user, e_device, e_cmid, e_target, e_body, e_extra, e_sealed,
    e_emoji, m_user, m_room, m_seq, m_back);
  IF cardinality(p_room) > 0 THEN
    DELETE FROM members m USING unnest(p_room, p_user, p_role) AS w (room_id, user_id, role)
      WHERE w.role IS NULL AND m.room_id = w.room_id AND m.user_id = w.user_id AND m.room_id = ANY (p_room);
    INSERT INTO members (room_id, user_id, role)
      SELECT room_id, user_id, role FROM unnest(p_room, p_user, p_role) AS w (room_id, user_id, role) WHERE role IS NOT NULL
      ON CONFLICT (room_id, user_id) DO UPDATE SET role = excluded.role;
  END IF;
END $$
"""


def upgrade() -> None:
    """On PostgreSQL, add what stores and tells more; on SQLite, nothing."""
    if op.get_context().dialect.name == "postgresql":
        for statement in (GONE_ON, TOLD, COMMIT):
            op.execute(statement)
