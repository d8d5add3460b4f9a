"""A disk that forgets what was not synced, for many lives of a server in one process, and that fails when it is told to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

import apsw

from support.power_loss import Image, PowerLossFile

NAME: Final = "simulated"
_COVERED: Final = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Life:
    """What one life of a server has open.

    Attributes:
        images: By path, what it believes its files to contain.
        over: It has ended: it reads, and changes nothing any more.
        full: No write succeeds.
        failing: No sync succeeds.
    """

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.over = False
        self.full = False
        self.failing = False

    def end(self, tear: random.Random | None, *, keep: bool) -> None:
        """End it.

        Args:
            tear: Of what no sync has carried to the disk, some is there all the same, in any combination.
            keep: All of it is there: only the process ended, the system lives.
        """
        for path, image in self.images.items():
            changes = image.unsynced
            if not keep:
                changes = [each for each in changes if tear.random() < 0.5] if tear is not None else []
            if changes and Path(path).exists():
                _carry(Path(path), changes)
        self.over = True


def _carry(path: Path, changes: list[tuple[int, bytes | None]]) -> None:
    with path.open("r+b") as file:
        for place, data in changes:
            if data is None:
                file.truncate(place)
            else:
                file.seek(place)
                file.write(data)


class _File(PowerLossFile):
    """One open file of a database."""

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], life: Life) -> None:
        super().__init__(name, flags, life.images, None)
        self._life = life

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - the name is SQLite's
        """Write to the image."""
        if self._life.over:
            return
        if self._life.full:
            raise apsw.FullError("the disk is full")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Shorten the image."""
        if not self._life.over:
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Carry everything that waits to the file."""
        if self._life.over:
            return
        if self._life.failing:
            raise apsw.IOError("the disk does not sync")
        super().xSync(flags)


class Disk(apsw.VFS):
    """The storage layer under the databases of servers.

    Attributes:
        life: Whose files are opened now.
    """

    def __init__(self) -> None:
        self.life = Life()
        super().__init__(NAME, "unix")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        """Open a file; those that carry the database get an image."""
        if name is None or not flags[0] & _COVERED:
            return apsw.VFSFile("unix", name, flags)
        return _File(name, flags, self.life)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001
        """Delete a file and its image; who has ended deletes nothing."""
        if self.life.over:
            return
        self.life.images.pop(filename, None)
        super().xDelete(filename, syncdir)
