"""Bring a database to the schema of this version. One history, by Alembic, for SQLite and PostgreSQL.

A file is migrated on the standard library's SQLite before anything else opens it, and closed again: two SQLite libraries in one
process must never hold the same file (closing one would drop the other's locks). For PostgreSQL, Alembic writes the statements and
the driver that the server uses executes them, in one transaction.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final

import apsw

from securechat.errors import Shutdown

HEAD: Final = "0014"
"""The newest migration. A test compares it with the files."""
SERVES: Final = "serves "
"""In PostgreSQL, before the oldest revision whose servers may use this schema: the comment of the table `alembic_version`."""


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


def migrate(path: Path, to: str = HEAD) -> None:
    """Create or upgrade a database file.

    Raises:
        Shutdown: The file was written by a newer SecureChat.
    """
    have = current(path)
    if have == to:
        return
    require_known(have, str(path))
    # Slow to import, and needed only when there is something to do.
    from alembic import command  # noqa: PLC0415
    from sqlalchemy import create_engine  # noqa: PLC0415

    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.upgrade(_config(connection=connection), to)
    engine.dispose()


def statements(have: str | None) -> str:
    """Return what brings a PostgreSQL database from a revision to this version, as SQL without a transaction of its own."""
    from alembic import command  # noqa: PLC0415

    text = io.StringIO()
    command.upgrade(_config(text=text), f"{have or 'base'}:{HEAD}", sql=True)
    return text.getvalue()


def require_known(have: str | None, where: str) -> None:
    """Refuse the database of a newer version.

    Raises:
        Shutdown: It is newer.
    """
    if have is not None and have > HEAD:
        raise Shutdown(f"{where} has schema {have}, this SecureChat knows {HEAD}. Run a newer version.")


def _config(**attributes: Any) -> Any:
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes.update(attributes)
    return config
