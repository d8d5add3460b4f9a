"""Bring a database file to the schema of this version.

Runs on the standard library's SQLite before anything else opens the file, and closes it again: two SQLite libraries in one
process must never hold the same file (closing one would drop the other's locks).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import apsw

from securechat.errors import Shutdown

HEAD: Final = "0007"
"""The newest migration. A test compares it with the files."""


def current(path: Path) -> str | None:
    """Return the revision of a database file, or None for a new or empty one."""
    if not path.exists():
        return None
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if not list(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'")):
            return None
        rows = list(db.execute("SELECT version_num FROM alembic_version"))
    finally:
        db.close()
    return str(rows[0][0]) if rows else None


def migrate(path: Path) -> None:
    """Create or upgrade the database.

    Raises:
        Shutdown: The file was written by a newer SecureChat.
    """
    have = current(path)
    if have == HEAD:
        return
    if have is not None and have > HEAD:
        raise Shutdown(f"{path} has schema {have}, this SecureChat knows {HEAD}. Run a newer version.")
    # Slow to import, and needed only when there is something to do.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from sqlalchemy import create_engine  # noqa: PLC0415

    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    engine.dispose()
