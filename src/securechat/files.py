"""Private files: keys, tokens, certificates. The one way in which this program writes and reads them."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from securechat.errors import Shutdown


def write_private(path: Path, data: bytes, *, mode: int = 0o600, anew: bool = False) -> None:
    """Write a file for its owner only so that nobody ever sees half of it, and it is there after a power cut.

    Args:
        path: Its folder exists.
        data: What is in it.
        mode: Of the file.
        anew: Only if there is no such file.

    Raises:
        FileExistsError: There is one, and `anew`.
        OSError: The disk does not take it; what was there stays.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if anew:
            os.link(unfinished, path, follow_symlinks=False)  # Unlike a rename, this never replaces a file.
        else:
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes:
    """Return what is in a file that nobody but its owner can read.

    Raises:
        Shutdown: Others can read or change it, or it belongs to somebody else: what is in it is no secret.
        OSError: It cannot be read.
    """
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Shutdown(f"{path} can be read by others. Make it yours alone: chmod 600 {path}")
    if status.st_uid not in {0, os.geteuid()}:
        raise Shutdown(f"{path} belongs to another user. Make it yours: chown $USER {path}")
    return path.read_bytes()
