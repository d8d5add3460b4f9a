"""Backups: one file, made while the server runs, verified by restoring it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

import apsw
import msgspec

from securechat import __version__
from securechat.crypto.key_provider import FileKeys
from securechat.domain.commands import Backup
from securechat.domain.ports import Maintenance
from securechat.errors import Conflict, InvalidInput, Shutdown, Unavailable
from securechat.ops.checkpoints import PRUNED_FILES
from securechat.server.audit import verify_folder
from securechat.server.datadir import DataDir
from securechat.store.keys import org_aad
from securechat.store.migrate import HEAD

DATABASE: Final = "securechat.db"
MANIFEST: Final = "manifest.json"


class Manifest(msgspec.Struct, kw_only=True):
    """What a backup says of itself."""

    version: str
    schema: str
    users: int
    rooms: int
    entries: int
    sha256: dict[str, str]


async def create_backup(store: Maintenance, data: DataDir, path: str) -> Backup:
    """Write a backup and verify it by reading it back.

    Raises:
        InvalidInput: The path cannot be written.
        Conflict: The file exists.
    """
    target = _new_file(path)
    with tempfile.TemporaryDirectory(dir=data.root, prefix="backup-") as folder:
        copy, audit = Path(folder) / DATABASE, Path(folder) / data.audit.name
        loop = asyncio.get_running_loop()
        # A checkpoint that is younger than the copy would tell of records that the copy lacks; a statement about pruning that
        # is younger says nothing about it, and one that is older is needed.
        await loop.run_in_executor(None, _copy_files, data.audit, audit, "*")
        await store.backup(str(copy))
        await loop.run_in_executor(None, _copy_files, data.audit, audit, PRUNED_FILES)
        return await loop.run_in_executor(None, _pack, copy, data, audit, target)


def _copy_files(source: Path, target: Path, pattern: str) -> None:
    target.mkdir(mode=0o700, exist_ok=True)
    for path in source.glob(pattern):
        if path.is_file() and not path.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):  # The oldest checkpoints go when new ones come.
                shutil.copy2(path, target)


def _new_file(path: str) -> Path:
    target = Path(path)
    if target.exists():
        raise Conflict(f"{target} exists; choose a new name.")
    if not target.parent.is_dir():
        raise InvalidInput(f"{target.parent} is not a folder.", field="path")
    return target


def _pack(copy: Path, data: DataDir, audit: Path, target: Path) -> Backup:
    files = {DATABASE: copy}
    for folder in (data.keys, data.tls, audit):
        files |= {
            f"{folder.name}/{path.name}": path for path in sorted(folder.glob("[!.]*")) if path.is_file()
        }  # not what is being written
    users, rooms, entries = _counts(copy)
    hashes = {name: _sha256(path) for name, path in files.items()}
    manifest = Manifest(version=__version__, schema=HEAD, users=users, rooms=rooms, entries=entries, sha256=hashes)
    unfinished = target.with_name(target.name + ".part")
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive:
            body = msgspec.json.encode(manifest)
            info = tarfile.TarInfo(MANIFEST)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
            for name, path in files.items():
                archive.add(path, name)
        file.flush()
        os.fsync(file.fileno())
    backup = verify_backup(unfinished)
    unfinished.rename(target)
    return msgspec.structs.replace(backup, path=str(target))


def verify_backup(path: Path) -> Backup:
    """Restore a backup into a folder that is thrown away, check it there, and return what is in it.

    Raises:
        Shutdown: It is not whole.
    """
    with tempfile.TemporaryDirectory(prefix="securechat-verify-") as folder:
        manifest = _unpack(path, Path(folder))
        counts = _counts(Path(folder) / DATABASE)
        report = verify_folder(DataDir(folder))
        key_apart = _key_apart(Path(folder))
    if counts != (manifest.users, manifest.rooms, manifest.entries):
        raise Shutdown(f"{path} is damaged: it says {manifest.entries} entries and holds {counts[2]}.")
    return Backup(
        path=str(path), bytes=path.stat().st_size, users=manifest.users, rooms=manifest.rooms, entries=manifest.entries,
        schema=manifest.schema, audit="" if report.whole else report.findings[0].text, key_apart=key_apart,
    )  # fmt: skip


def restore_backup(path: Path, root: Path) -> Backup:
    """Restore a backup into a new data folder.

    Raises:
        Shutdown: The folder is not empty, or the backup is not whole.
    """
    if root.exists() and any(root.iterdir()):
        raise Shutdown(f"{root} is not empty. Restore into a new folder, then start with --data.")
    backup = verify_backup(path)
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _unpack(path, root)
    return backup


def _unpack(path: Path, folder: Path) -> Manifest:
    if not path.is_file():
        raise Shutdown(f"There is no file {path}.")
    try:
        with tarfile.open(path, "r:gz") as archive:
            archive.extractall(folder, filter="data")
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, tarfile.TarError, EOFError, msgspec.DecodeError) as error:
        raise Shutdown(f"{path} is not a SecureChat backup, or is damaged: {error}") from error
    (folder / MANIFEST).unlink()
    for name, digest in manifest.sha256.items():
        if not (folder / name).is_file() or _sha256(folder / name) != digest:
            raise Shutdown(f"{path} is damaged: {name} is not what was saved.")
    for secret in ("keys", "tls", "audit"):
        if (folder / secret).is_dir():
            (folder / secret).chmod(0o700)
    return manifest


def _counts(database: Path) -> tuple[int, int, int]:
    """Check the database's pages and return (users, rooms, entries)."""
    db = apsw.Connection(str(database), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if db.pragma("integrity_check") != "ok":
            raise Shutdown(f"{database} is damaged.")
        (counts,) = db.execute("SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM rooms), (SELECT count(*) FROM entries)")
    except apsw.Error as error:
        raise Shutdown(f"The database in the backup cannot be read: {error}") from error
    finally:
        db.close()
    return counts[0], counts[1], counts[2]


def _key_apart(folder: Path) -> str:
    """Return the names of the key files that texts and secrets of a backup need, as far as they are not in the backup."""
    db = apsw.Connection(str(folder / DATABASE), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if not list(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'org_keys'")):
            return ""  # Made by a version without storage keys.
        rows = list(db.execute("SELECT version, org_id, kek, wrapped FROM org_keys"))
    finally:
        db.close()
    missing: dict[str, None] = {}
    for version, org_id, kek, wrapped in rows:
        try:
            FileKeys(folder / "keys").unwrap(kek, wrapped, org_aad(org_id, version))
        except Unavailable:
            missing[f"kek-{kek}.key"] = None
    return ", ".join(missing)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_space(path: Path) -> int:
    """Return the bytes free where `path` is."""
    return shutil.disk_usage(path).free
