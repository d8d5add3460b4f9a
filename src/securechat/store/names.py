"""Names that are unique in the whole store.

In SQLite, unique indexes see to it. A PostgreSQL table that is spread by an id can only promise uniqueness within the id, so there
the table `names` says whose a name is; it is spread by the name itself.
"""

from __future__ import annotations

from securechat.domain.rooms import RoomKind, RoomState
from securechat.store.database import Dialect, Transaction


async def claim(transaction: Transaction, kind: str, key: str, owner: str) -> None:
    """Take a name.

    Raises:
        Duplicate: Somebody else has it. The transaction cannot go on.
    """
    if transaction.dialect is Dialect.POSTGRESQL:
        await transaction.execute("INSERT INTO names (kind, key, owner) VALUES (?, ?, ?)", (kind, key, owner))


async def claim_free(transaction: Transaction, kind: str, key: str, owner: str) -> bool:
    """Take a name unless somebody has it, and return whether it was free. In SQLite, the row itself will find that out."""
    if transaction.dialect is not Dialect.POSTGRESQL:
        return True
    sql = "INSERT INTO names (kind, key, owner) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING key"
    return bool(await transaction.execute(sql, (kind, key, owner)))


async def release(transaction: Transaction, kind: str, owner: str, key: str | None = None) -> None:
    """Give back this name, or every one of this kind that somebody has."""
    if transaction.dialect is Dialect.POSTGRESQL:
        await transaction.execute("DELETE FROM names WHERE kind = ? AND owner = ? AND key = coalesce(?, key)", (kind, owner, key))


async def claim_name(transaction: Transaction, room: RoomState) -> None:
    """Let a public room have its name, and only that."""
    if getattr(transaction, "names_elsewhere", False):
        return
    await release(transaction, "room", room.id)
    if room.kind is RoomKind.PUBLIC:
        await claim(transaction, "room", room.name.casefold(), room.id)
