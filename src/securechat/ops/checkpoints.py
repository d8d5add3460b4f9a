"""Checkpoints: one small signed file each, in the data folder and, where the operator says so, in a folder elsewhere.

The database cannot tell that its end was cut off; a file beside it can, and a file on another machine can even when somebody had
the whole data folder in hand.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from securechat.domain.audit import Checkpoint, Head, PruneStatement
from securechat.ops.audit_key import PUBLIC_SUFFIX, AuditKey, is_signed

log = logging.getLogger(__name__)

KEEP: Final = 2_000
"""Checkpoints that stay in the data folder; in the folder elsewhere, all stay."""
FILE_MAX: Final = 4_096
_CHECKPOINT: Final = ".checkpoint.json"
_PRUNED: Final = ".pruned.json"
PRUNED_FILES: Final = f"*{_PRUNED}"
"""What the files of statements about pruning are called."""

_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
"""What a file system answers that has no hard links."""

S = TypeVar("S", Checkpoint, PruneStatement)


class Checkpoints:
    """Writes what the key signs.

    Args:
        key: The key.
        own: Folder in the data folder.
        elsewhere: Another folder; None for none.

    Attributes:
        last: The newest checkpoint of this process.
    """

    def __init__(self, key: AuditKey, own: Path, elsewhere: Path | None) -> None:
        self._key = key
        self._own = own
        self._elsewhere = elsewhere
        self.last: Checkpoint | None = None

    @property
    def key_id(self) -> str:
        """Id of the key."""
        return self._key.id

    def write(self, head: Head, at: int) -> Checkpoint:
        """Sign that the chain has reached this record, and keep it. Waits for the disk.

        Raises:
            OSError: The data folder does not take it. The folder elsewhere may be away for a while: that is logged.
        """
        checkpoint = self._key.sign_checkpoint(chain=head.chain, n=head.n, hash_=head.hash, at=at)
        self._keep(checkpoint_name(checkpoint), checkpoint)
        for old in sorted(self._own.glob(f"{head.chain}-*{_CHECKPOINT}"))[:-KEEP]:
            old.unlink(missing_ok=True)
        self.last = checkpoint
        return checkpoint

    def newest(self, chain: str) -> Checkpoint | None:
        """Return the newest checkpoint of a chain in the data folder, if this key signed it."""
        for path in sorted(self._own.glob(f"{chain}-*{_CHECKPOINT}"), reverse=True)[:1]:
            try:
                checkpoint = _read(path, Checkpoint)
            except ValueError:
                return None
            return checkpoint if is_signed(checkpoint, {self._key.id: self._key.public}) else None
        return None

    def write_prune(self, statement: PruneStatement) -> PruneStatement:
        """Sign a statement about what is removed, and keep it. Waits for the disk.

        Raises:
            OSError: The data folder does not take it.
        """
        signed = self._key.sign_prune(statement)
        self._keep(prune_name(signed), signed)
        return signed

    def _keep(self, name: str, statement: Checkpoint | PruneStatement) -> None:
        data = msgspec.json.format(msgspec.json.encode(statement)) + b"\n"
        self._own.mkdir(mode=0o700, parents=True, exist_ok=True)
        public = f"{self._key.id}{PUBLIC_SUFFIX}"
        for file, content in ((public, self._key.public_pem()), (name, data)):
            _replace(self._own / file, content)
        if self._elsewhere is not None:
            try:
                self._elsewhere.mkdir(mode=0o700, parents=True, exist_ok=True)
                for file, content in ((public, self._key.public_pem()), (name, data)):
                    _add(self._elsewhere / file, content)
            except OSError as error:
                extra = {"folder": str(self._elsewhere), "error": error.strerror}
                log.error("checkpoint not kept elsewhere", extra=extra)  # noqa: TRY400 - no traceback helps


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint's file: sorted by name is sorted by place.

    The time is part of it, so that a chain that was made anew never writes over what was signed before.
    """
    return f"{checkpoint.chain}-{checkpoint.n:012d}-{checkpoint.at}{_CHECKPOINT}"


def prune_name(statement: PruneStatement) -> str:
    """Return the name of a statement's file."""
    return f"{statement.chain}-{statement.through:012d}{_PRUNED}"


def read_folder(folder: Path) -> tuple[list[tuple[Path, Checkpoint]], list[tuple[Path, PruneStatement]], list[tuple[Path, str]]]:
    """Return (checkpoints, statements about pruning, files that are bad and why), sorted by name; signatures are not checked."""
    checkpoints: list[tuple[Path, Checkpoint]] = []
    statements: list[tuple[Path, PruneStatement]] = []
    bad: list[tuple[Path, str]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            if path.name.endswith(_CHECKPOINT):
                checkpoint = _read(path, Checkpoint)
                checkpoints.append((path, checkpoint))
                named = checkpoint_name(checkpoint)
            elif path.name.endswith(_PRUNED):
                statement = _read(path, PruneStatement)
                statements.append((path, statement))
                named = prune_name(statement)
            else:
                continue
            if named != path.name:
                bad.append((path, f"holds what belongs into {named}"))
        except ValueError as error:
            bad.append((path, str(error)))
    return checkpoints, statements, bad


def public_keys(folders: Sequence[Path]) -> list[Path]:
    """Return the files of public keys in these folders."""
    return [path for folder in folders for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}"))]


def _read(path: Path, kind: type[S]) -> S:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_MAX), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise ValueError("cannot be read as what its name says") from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    unfinished = path.with_name(f".{path.name}.part")
    _write(unfinished, data, os.O_TRUNC)
    unfinished.replace(path)


def _add(path: Path, data: bytes) -> None:
    """Write a new file whole or not at all, and never an old one: enough for a folder in which files can only be added.

    Half a file under this name would be taken for somebody's work, for ever: so the name comes when all is on the disk. Where
    nothing can be removed, the other name stays, and nobody looks at it.
    """
    if os.path.lexists(path):
        return
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        _write(unfinished, data, os.O_EXCL)
        try:
            os.link(unfinished, path, follow_symlinks=False)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _write_at_once(path, data)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # Some network file systems do not know it for folders.
            os.fsync(folder)
    finally:
        os.close(folder)


def _write_at_once(path: Path, data: bytes) -> None:
    """Write a new file where there are no hard links; what the disk does not take whole is removed."""
    try:
        _write(path, data, os.O_EXCL)
    except FileExistsError:
        return
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _write(path: Path, data: bytes, how: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | how, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
