"""Locks that SQLite, which has one writer, does not need: what is looked at before it is changed stays as it is."""

from __future__ import annotations

from securechat.store.database import Dialect, Row, Transaction


def for_update(transaction: Transaction) -> str:
    """Return what ends a SELECT whose rows nobody else may change until the transaction ends."""
    return " FOR UPDATE" if transaction.dialect is Dialect.POSTGRESQL else ""


async def lock_owners(transaction: Transaction) -> None:
    """Have every owner of the server stay one until the transaction ends."""
    await transaction.execute("SELECT id FROM users WHERE role = 'owner' ORDER BY id" + for_update(transaction))  # nosec B608 - our own names


async def lock_user(transaction: Transaction, user_id: str) -> Row | None:
    """Let one transaction at a time decide on what belongs to a user, and keep the user as it is until then.

    Args:
        transaction: At home.
        user_id: Whose.

    Returns:
        The columns `password_hash, disabled_at`; None if there is no such user.
    """
    sql = "SELECT password_hash, disabled_at FROM users WHERE id = ?" + for_update(transaction)  # nosec B608 - our own names
    rows = await transaction.execute(sql, (user_id,))
    return rows[0] if rows else None
