"""A storage layer that forgets what was not synced: what a power cut does, and `kill -9` alone cannot show.

Every file of the database has an image in this process. Writes and truncations change the image; only a sync carries them to the
file. Killing the process therefore leaves exactly what had been synced. With `tear`, each unsynced write may also reach the file on
its own, in any combination: a disk that writes back in its own order.
"""

from __future__ import annotations

import random
import threading
from typing import Final

import apsw

NAME: Final = "power-loss"
_COVERED: Final = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Image:
    """What this process believes one file to contain, and what of it no sync has carried to the disk yet."""

    def __init__(self, content: bytes) -> None:
        self.content = bytearray(content)
        self.unsynced: list[tuple[int, bytes | None]] = []
        self.lock = threading.Lock()

    def read(self, amount: int, offset: int) -> bytes:
        """Return up to `amount` bytes."""
        with self.lock, memoryview(self.content) as content:
            return bytes(content[offset : offset + amount])

    def write(self, data: bytes, offset: int) -> None:
        """Change the image only."""
        with self.lock:
            if len(self.content) < offset:
                self.content.extend(bytes(offset - len(self.content)))
            self.content[offset : offset + len(data)] = data
            self.unsynced.append((offset, data))

    def truncate(self, size: int) -> None:
        """Shorten the image only."""
        with self.lock:
            del self.content[size:]
            self.unsynced.append((size, None))


class PowerLossFile(apsw.VFSFile):
    """One open file of the database."""

    def __init__(
        self, name: str | apsw.URIFilename | None, flags: list[int], images: dict[str, Image], tear: random.Random | None
    ) -> None:
        super().__init__("unix", name, flags)
        key = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        if key not in images:
            images[key] = Image(super().xRead(super().xFileSize(), 0) if super().xFileSize() else b"")
        self._image = images[key]
        self._tear = tear

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - the name is SQLite's
        """Read the image."""
        return self._image.read(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write to the image; a torn disk may carry it over by chance."""
        data = bytes(data)
        self._image.write(data, offset)
        if self._tear is not None and self._tear.random() < 0.5:
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Shorten the image."""
        self._image.truncate(newsize)

    def xFileSize(self) -> int:  # noqa: N802
        """Return the size of the image."""
        return len(self._image.content)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Carry everything that waits to the file."""
        image = self._image
        with image.lock:
            for place, data in image.unsynced:
                if data is None:
                    super().xTruncate(place)
                else:
                    super().xWrite(data, place)
            image.unsynced.clear()


class PowerLossVFS(apsw.VFS):
    """The storage layer.

    Args:
        tear: Where chance comes from; None loses every unsynced write.
    """

    def __init__(self, tear: random.Random | None) -> None:
        self._images: dict[str, Image] = {}
        self._tear = tear
        super().__init__(NAME, "unix", makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file; those that carry the database get an image."""
        if name is None or not flags[0] & _COVERED:
            return apsw.VFSFile("unix", name, flags)
        return PowerLossFile(name, flags, self._images, self._tear)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        """Delete a file and its image."""
        self._images.pop(filename, None)
        super().xDelete(filename, syncdir)


def install(mode: str) -> PowerLossVFS:
    """Make the storage layer the default of this process: `lose`, or `tear:SEED`."""
    name, _, seed = mode.partition(":")
    if name not in {"lose", "tear"}:
        raise SystemExit(f"unknown storage layer {mode}")
    return PowerLossVFS(random.Random(int(seed or 0)) if name == "tear" else None)
