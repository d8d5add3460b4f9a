"""PostgreSQL: where another server was ahead, each room is looked up by its key.

The planner took the rooms of a batch for many, and read all rooms that there are to find them (ADR 45). The rest of
`securechat_store` is as it was.
"""

from importlib import import_module

from alembic import op

revision = "0014"
down_revision = "0013"

BEFORE = "LEFT JOIN rooms r ON r.id = w.id CROSS JOIN LATERAL ("
AFTER = "LEFT JOIN LATERAL (SELECT x.last_seq FROM rooms x WHERE x.id = w.id OFFSET 0) AS r ON true CROSS JOIN LATERAL ("


def upgrade() -> None:
    """On PostgreSQL, replace it; on SQLite, nothing."""
    if op.get_context().dialect.name == "postgresql":
        store: str = import_module("securechat.store.migrations.versions.0013_store").STORE
        assert store.count(BEFORE) == 1  # noqa: S101 - of two texts that never change
        op.execute(store.replace(BEFORE, AFTER).replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
