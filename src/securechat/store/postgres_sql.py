"""What the log says to PostgreSQL, in its own words. `securechat_store` is made by migrations 0013 and 0014."""

from __future__ import annotations

from typing import Final

from securechat.domain.limits import LIMITS
from securechat.store.log_reads import UNREAD_WINDOW
from securechat.store.sealing import COLUMNS

REPLACED: Final = "SC002"
"""SQLSTATE of `securechat_store`: a key was replaced. Nothing is stored."""
LOCK: Final = "SELECT id, last_seq FROM rooms WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE"
STORE: Final = (
    "SELECT securechat_store($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::text[], $6::bigint[], $7::text[],"
    " $8::bigint[], $9::text[], $10::text[], $11::text[], $12::bigint[], $13::text[], $14::text[], $15::bytea[], $16::text[],"
    " $17::text[], $18::text[], $19::bigint[], $20::boolean[], $21::text[], $22::text[], $23::text[], $24::boolean)"
)
STATE: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, r.permissions, r.last_seq,"
    " (SELECT array_agg(m.user_id) FROM members m WHERE m.room_id = r.id),"
    " (SELECT array_agg(m.role) FROM members m WHERE m.room_id = r.id) FROM rooms r WHERE r.id = ANY ($1::text[])"
)
LOCK_HERE: Final = (
    f"WITH locked AS ({LOCK}) SELECT '', 0 WHERE securechat_elsewhere($1::text[]) UNION ALL SELECT id, last_seq FROM locked"
)
"""In this order: whoever moves a bucket never waits for somebody who holds a room and waits for the bucket."""
_E: Final = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
_X: Final = ", ".join(f"x.{name}" for name in COLUMNS.split(", "))
_REACTIONS: Final = (
    "LEFT JOIN LATERAL (SELECT array_agg(a.emoji ORDER BY a.added_seq) AS emojis,"
    " array_agg(a.user_id ORDER BY a.added_seq) AS users"
    " FROM reactions a WHERE a.room_id = e.room_id AND a.seq = e.seq) AS q ON true"
)
_FOUND: Final = "LATERAL (SELECT * FROM entries f WHERE f.room_id = {0} AND f.{1} OFFSET 0) AS {2}"
"""Entries that are looked up by their keys, one after the other. `OFFSET 0` leaves no other way: the planner takes each lookup for
sixteen, one in each partition, and soon prefers to read the whole table."""
_ERASED: Final = (
    "(SELECT max(j.until_seq) FROM storage_jobs j WHERE j.room_id = {0} AND j.kind = 'erase' AND j.finished_at IS NULL)"
)
LOOK: Final = (
    f"SELECT {_E}, {', '.join(['NULL'] * 14)}, {_ERASED.format('e.room_id')}, e.room_id, 'sent'"
    " FROM unnest($1::text[], $2::text[], $3::text[]) AS w (room_id, device_id, cmid)"
    f" CROSS JOIN {_FOUND.format('w.room_id', 'device_id = w.device_id AND f.cmid = w.cmid', 'e')}"
    f" UNION ALL SELECT {_E}, {_X}, q.emojis, q.users, {_ERASED.format('e.room_id')}, e.room_id, 'target'"
    f" FROM unnest($4::text[], $5::bigint[]) AS w (room_id, seq) CROSS JOIN {_FOUND.format('w.room_id', 'seq = w.seq', 'e')}"
    f" LEFT JOIN {_FOUND.format('e.room_id', 'seq = e.edit_seq', 'x')} ON true {_REACTIONS}"
    f" UNION ALL SELECT {_E}, {', '.join(['NULL'] * 15)}, e.room_id, 'newer'"
    f" FROM unnest($6::text[], $7::bigint[]) AS w (room_id, seq) CROSS JOIN {_FOUND.format('w.room_id', 'seq > w.seq', 'e')}"
    " WHERE e.type <> ALL ($8::text[])"
    f" UNION ALL SELECT r.last_seq, {', '.join(['NULL'] * 26)}, r.id, 'newest' FROM rooms r WHERE r.id = ANY ($6::text[])"
)
"""What was sent, what it is about, what else has changed in rooms since a `seq`, and where they are now: all as of one moment."""
GONE: Final = (
    "SELECT 1 FROM buckets WHERE state IN ('away', 'absent')"
    " AND bucket IN (SELECT securechat_bucket(id) FROM unnest($1::text[]) AS w (id)) LIMIT 1"
)
_PAGE: Final = (
    "WITH page AS (SELECT * FROM entries WHERE room_id = $1 AND {0} LIMIT $3)"
    f" SELECT {_E}, {_X}, q.emojis, q.users, r.last_seq, {_ERASED.format('r.id')},"
    " (SELECT b.state FROM buckets b WHERE b.bucket = securechat_bucket($1) AND b.state IN ('away', 'absent'))"
    " FROM (VALUES (1)) AS one LEFT JOIN rooms r ON r.id = $1 LEFT JOIN page e ON true"
    f" LEFT JOIN {_FOUND.format('e.room_id', 'seq = e.edit_seq', 'x')} ON true"
    f" {_REACTIONS} ORDER BY e.seq"
)
PAGE_AFTER: Final = _PAGE.format("seq > $2 ORDER BY seq")
PAGE_BEFORE: Final = _PAGE.format("seq < $2 ORDER BY seq DESC")
SUMMARY: Final = (
    "SELECT r.id, r.kind, r.name, r.topic, r.last_seq, (SELECT count(*) FROM members c WHERE c.room_id = r.id) AS members, m.role,"
    " coalesce(d.read_seq, 0) AS read_seq, r.permissions,"
    " CASE WHEN m.role IS NULL OR coalesce(d.read_seq, 0) >= r.last_seq THEN 0 ELSE (SELECT count(*) FROM (SELECT 1 FROM entries e"
    f" WHERE e.room_id = r.id AND e.seq > greatest(coalesce(d.read_seq, 0), r.last_seq - {UNREAD_WINDOW})"
    f" AND e.type = 'message.sent' AND e.user_id <> m.user_id AND e.deleted_seq IS NULL LIMIT {LIMITS.unread}) AS counted) END"
    " AS unread"
)
"""Columns of a summary, of `rooms r`, `members m` and `reads d`. Who the other one of a direct room is comes after them."""
SUMMARY_WITH_PEER: Final = (
    f"{SUMMARY},"
    " CASE WHEN r.kind = 'direct' THEN (SELECT ARRAY[u.id, u.username, u.display_name, u.role, u.disabled_at::text] FROM members p"
    " JOIN users u ON u.id = p.user_id WHERE p.room_id = r.id AND p.user_id <> coalesce(m.user_id, '') LIMIT 1) END FROM rooms r"
)
THERE: Final = (
    "SELECT e.room_id, e.seq, e.type, e.at, e.user_id, e.device_id, e.cmid, e.target, e.body, e.extra, e.sealed"
    f" FROM unnest($1::text[], $2::bigint[]) AS w (room_id, seq) CROSS JOIN {_FOUND.format('w.room_id', 'seq = w.seq', 'e')}"
)
