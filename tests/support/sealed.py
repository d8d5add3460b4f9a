"""Reads and writes texts of a stopped server's database, and looks for words in every file of a folder."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from securechat.crypto.key_provider import FileKeys
from securechat.server.clock import SystemClock
from securechat.store.keys import KeyStore
from securechat.store.rows import to_entry
from securechat.store.sealing import COLUMNS, Sealing
from securechat.store.sqlite import SqliteDatabase

Texts = dict[tuple[str, int], str | None]
"""(room, seq) → text; None for one that does not open."""


@contextmanager
def opened(root: Path) -> Iterator[tuple[SqliteDatabase, Sealing]]:
    """Open the database of a data folder whose server does not run."""
    database = SqliteDatabase(root / "securechat.db")
    try:
        yield database, Sealing(KeyStore(database, FileKeys(root / "keys"), SystemClock()))
    finally:
        for pending in (database._erasing, database._erase_task):
            if pending is not None:
                pending.cancel()
        for connection in (database._reader, database._checkpointer, database._writer):
            connection.close()
        database._disk.close()
        database._background.close()


def at_once(work: Coroutine[Any, Any, None]) -> None:
    """Run what never waits on SQLite, also where a loop runs already."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("It waited.")


def sealed_texts(root: Path) -> Texts:
    """Open every sealed text."""
    with opened(root) as (database, sealing):
        found: Texts = {}
        for row in database.rows(f"SELECT {COLUMNS}, room_id FROM entries WHERE sealed IS NOT NULL"):
            entry = to_entry(row[-1], row)
            at_once(sealing.open([entry], [row[:-1]]))
            found[entry.room, entry.seq] = entry.body
        return found


def clear_texts(root: Path) -> Texts:
    """Read every text that is not sealed."""
    with opened(root) as (database, _):
        return {(row[0], row[1]): row[2] for row in database.rows("SELECT room_id, seq, body FROM entries WHERE body IS NOT NULL")}


def files_with(folder: Path, word: bytes) -> list[str]:
    """Return which files hold a word, also packed in archives and compressed logs; both as UTF-8 and as UTF-16."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        for name, content in _contents(path.name, path.read_bytes()):
            if word in content or word.decode().encode("utf-16-le") in content:
                found.append(f"{path.relative_to(folder)} {name}")
    return found


def _contents(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if name.endswith(".tar.gz"):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield from _contents(member.name, file.read())
    elif name.endswith(".gz"):
        yield name, gzip.decompress(content)
