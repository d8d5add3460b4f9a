"""PostgreSQL: tables in hash partitions, every key with the column that its table is spread by.

SQLite keeps its keys: a file is not spread, and its unique indexes find a device by its id alone without asking sixteen tables. No
PostgreSQL database is older than this migration, so there the tables of before, which are empty, are made anew.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

PARTITIONS = 16
T = 'text COLLATE "C"'
TABLES = {
    # table: (spread by hash of, columns, primary key)
    "rooms": (
        "id",
        (
            f"id {T} NOT NULL, kind {T} NOT NULL, name {T} NOT NULL, name_key {T} NOT NULL, topic {T} NOT NULL,"
            f" created_at bigint NOT NULL, permissions {T} NOT NULL DEFAULT '{{}}', last_seq bigint NOT NULL DEFAULT 0"
        ),
        "id",
    ),
    "members": ("room_id", f"room_id {T} NOT NULL, user_id {T} NOT NULL, role {T} NOT NULL", "room_id, user_id"),
    "entries": (
        "room_id",
        (
            f"room_id {T} NOT NULL, seq bigint NOT NULL, type {T} NOT NULL, at bigint NOT NULL, user_id {T} NOT NULL,"
            f" device_id {T}, cmid {T}, target bigint, body {T}, extra {T}, edit_seq bigint, deleted_seq bigint, sealed bytea"
        ),
        "room_id, seq",
    ),
    "reactions": (
        "room_id",
        f"room_id {T} NOT NULL, seq bigint NOT NULL, emoji {T} NOT NULL, user_id {T} NOT NULL, added_seq bigint NOT NULL",
        "room_id, seq, emoji, user_id",
    ),
    "room_keys": (
        "room_id",
        (
            f"room_id {T} NOT NULL, version bigint NOT NULL, org_version bigint NOT NULL, wrapped bytea,"
            " created_at bigint NOT NULL, first_seq bigint NOT NULL, retired_at bigint, destroyed_at bigint, erased_seq bigint"
        ),
        "room_id, version",
    ),
    "users": (
        "id",
        (
            f"id {T} NOT NULL, username {T} NOT NULL, display_name {T} NOT NULL, name_key {T} NOT NULL, role {T} NOT NULL,"
            f" password_hash {T}, created_at bigint NOT NULL, disabled_at bigint"
        ),
        "id",
    ),
    "devices": (
        "user_id",
        (
            f"id {T} NOT NULL, user_id {T} NOT NULL, name {T} NOT NULL, address {T} NOT NULL, created_at bigint NOT NULL,"
            f" last_seen_at bigint NOT NULL, refreshed_at bigint NOT NULL, refresh_family {T}, refresh_hash {T}, previous_hash {T},"
            f" token_hash {T}, revoked_at bigint, confirmed_at bigint NOT NULL DEFAULT 0,"
            f" app {T}, scopes {T}, expires_at bigint"
        ),
        "user_id, id",
    ),
    "blocks": ("user_id", f"user_id {T} NOT NULL, blocked {T} NOT NULL", "user_id, blocked"),
    "commands": ("user_id", f"user_id {T} NOT NULL, name {T} NOT NULL, definition {T} NOT NULL", "user_id, name"),
    "reads": ("user_id", f"user_id {T} NOT NULL, room_id {T} NOT NULL, read_seq bigint NOT NULL", "user_id, room_id"),
    "totp": (
        "user_id",
        f"user_id {T} NOT NULL, sealed_secret bytea NOT NULL, last_step bigint NOT NULL, created_at bigint NOT NULL",
        "user_id",
    ),
    "passkeys": (
        "user_id",
        (
            f"id {T} NOT NULL, user_id {T} NOT NULL, name {T} NOT NULL, public_key bytea NOT NULL, sign_count bigint NOT NULL,"
            " created_at bigint NOT NULL, last_used_at bigint NOT NULL"
        ),
        "user_id, id",
    ),
    "externals": (
        "user_id",
        (
            f"id {T} NOT NULL, user_id {T} NOT NULL, issuer {T} NOT NULL, subject {T} NOT NULL, name {T} NOT NULL,"
            " created_at bigint NOT NULL, last_used_at bigint NOT NULL"
        ),
        "user_id, id",
    ),
    "recovery_codes": ("user_id", f"user_id {T} NOT NULL, code_hash {T} NOT NULL", "user_id, code_hash"),
    # Whose a name is: the only thing that has to be unique without saying where it lives.
    "names": ("", f"kind {T} NOT NULL, key {T} NOT NULL, owner {T} NOT NULL", "kind, key"),
    "invites": (
        "",
        f"code {T} NOT NULL, created_by {T} NOT NULL, uses_left bigint NOT NULL, expires_at bigint NOT NULL, rooms {T} NOT NULL",
        "code",
    ),
    "links": ("", f"token_hash {T} NOT NULL, kind {T} NOT NULL, user_id {T}, expires_at bigint NOT NULL", "token_hash"),
    "codes": (
        "",
        (
            f"hash {T} NOT NULL, app {T} NOT NULL, scopes {T} NOT NULL, expires_at bigint NOT NULL, user_id {T} NOT NULL,"
            f" redirect_uri {T} NOT NULL, challenge {T} NOT NULL, user_code {T} NOT NULL, decision {T} NOT NULL,"
            f" used_at bigint NOT NULL, device_id {T} NOT NULL, polled_at bigint NOT NULL"
        ),
        "hash",
    ),
    "apps": (
        "",
        (
            f"id {T} NOT NULL, name {T} NOT NULL, secret_hash {T}, redirect_uris {T} NOT NULL, scopes {T} NOT NULL,"
            f" device_flow bigint NOT NULL, created_by {T} NOT NULL, created_at bigint NOT NULL"
        ),
        "id",
    ),
    "settings": ("", f"key {T} NOT NULL, value {T} NOT NULL", "key"),
    "audit": (
        "",
        f"chain {T} NOT NULL, n bigint NOT NULL, at bigint NOT NULL, "
        + ", ".join(
            f"{word} {T} NOT NULL"
            for word in ("action", "actor", "device", "address", "subject", "room", "result", "reason", "details", "hash")
        ),
        "chain, n",
    ),
    "org_keys": (
        "",
        f"version bigint NOT NULL, org_id {T} NOT NULL, kek bigint NOT NULL, wrapped bytea NOT NULL, created_at bigint NOT NULL",
        "version",
    ),
    "storage_jobs": (
        "",
        (
            f"id bigint GENERATED BY DEFAULT AS IDENTITY, kind {T} NOT NULL, room_id {T} NOT NULL, cursor_room {T} NOT NULL,"
            " cursor_seq bigint NOT NULL, until_seq bigint, done bigint NOT NULL, damaged bigint NOT NULL, total bigint,"
            " started_at bigint NOT NULL, finished_at bigint"
        ),
        "id",
    ),
}
INDEXES = (
    "INDEX rooms_name ON rooms (name_key)",
    "INDEX members_user ON members (user_id, room_id)",
    "UNIQUE INDEX entries_cmid ON entries (room_id, device_id, cmid) WHERE cmid IS NOT NULL",
    "INDEX entries_target ON entries (room_id, target) WHERE target IS NOT NULL",
    "INDEX room_keys_org ON room_keys (org_version)",
    "INDEX users_username ON users (username)",
    "INDEX users_name_key ON users (name_key)",
    "INDEX devices_id ON devices (id)",
    "INDEX devices_refresh ON devices (refresh_family) WHERE refresh_family IS NOT NULL",
    "INDEX devices_token ON devices (token_hash) WHERE token_hash IS NOT NULL",
    "INDEX devices_ended ON devices (revoked_at) WHERE revoked_at IS NOT NULL",
    "INDEX devices_app ON devices (app) WHERE app IS NOT NULL",
    "INDEX passkeys_id ON passkeys (id)",
    "INDEX externals_subject ON externals (issuer, subject)",
    "INDEX codes_expiry ON codes (expires_at)",
    "INDEX codes_user_code ON codes (user_code) WHERE user_code <> ''",
    "INDEX names_owner ON names (kind, owner)",
    "INDEX storage_jobs_room ON storage_jobs (room_id) WHERE finished_at IS NULL",
    "INDEX audit_at ON audit (at)",
    "INDEX audit_actor ON audit (actor, n)",
    "INDEX audit_subject ON audit (subject, n)",
)
APPEND = """
CREATE FUNCTION securechat_append(
  o_room text[], o_seq bigint[], k_room text[], k_version bigint[],
  e_room text[], e_seq bigint[], e_type text[], e_at bigint[], e_user text[], e_device text[], e_cmid text[], e_target bigint[],
  e_body text[], e_extra text[], e_sealed bytea[], e_emoji text[],
  m_user text[], m_room text[], m_seq bigint[], m_back boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  held bigint;
  each record;
BEGIN
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
    """On PostgreSQL, make every table anew; on SQLite, nothing."""
    if op.get_context().dialect.name != "postgresql":
        return
    for table, (by, columns, key) in TABLES.items():
        op.execute(f"DROP TABLE IF EXISTS {table}")
        spread = f" PARTITION BY HASH ({by})" if by else ""
        op.execute(f"CREATE TABLE {table} ({columns}, PRIMARY KEY ({key})){spread}")
        for number in range(PARTITIONS if by else 0):
            # A row of `rooms` is updated at each commit: with room in its page, no index changes.
            room = " WITH (fillfactor = 50)" if table == "rooms" else ""
            op.execute(
                f"CREATE TABLE {table}_p{number:02} PARTITION OF {table}"
                f" FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {number}){room}"
            )
    for index in INDEXES:
        op.execute(f"CREATE {index}")
    op.execute(APPEND)
