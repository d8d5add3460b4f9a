"""SharedFiles: the keys that several servers have to have in common, compared by way of the database.

A server whose keys differ would refuse what the others hand out, seal what they cannot open, and be another server to whoever
pinned its identity. So it does not start; and when a file changes while servers run, the one that leads says what is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from securechat.domain.ports import AccountStore
from securechat.errors import Shutdown

SETTING: Final = "shared_files"
_DIGITS: Final = 16

Digests = dict[str, str]
"""Name of a file → the beginning of its SHA-256."""


class SharedFiles:
    """Everything in the folders of keys.

    Args:
        folders: `keys/` of the data folder, and where the keys of storage are.
        accounts: Has the settings that are in the database.
        leads: Whether this server says what is right.

    Attributes:
        problem: What differs, in words for the operator; empty when all is well.
    """

    def __init__(self, folders: Sequence[Path], accounts: AccountStore, leads: Callable[[], bool]) -> None:
        self._folders = folders
        self._accounts = accounts
        self._leads = leads
        self.problem = ""

    async def begin(self, *, alone: bool) -> None:
        """Say which files there are, or compare.

        Args:
            alone: Whether no other server runs: then ours are right.

        Raises:
            Shutdown: They differ.
        """
        if alone:
            await self._say()
            return
        differing = await self._differing()
        if differing:
            raise Shutdown(
                f"The keys of this server are not those of the others: {', '.join(differing)}. Copy the folder keys/ of the data"
                " folder from a server that runs, or mount the same one (docs/howto/several-servers.md)."
            )

    async def look(self) -> None:
        """Compare again; the server that leads says what is right."""
        if self._leads():
            self.problem = ""
            await self._say()
        else:
            differing = await self._differing()
            self.problem = f"keys differ from those of the leading server: {', '.join(differing)}" if differing else ""

    async def _say(self) -> None:
        mine = msgspec.json.encode(self._digests(), order="sorted").decode()
        if await self._accounts.setting(SETTING) != mine:
            await self._accounts.set_setting(SETTING, mine)

    async def _differing(self) -> list[str]:
        theirs = msgspec.json.decode(await self._accounts.setting(SETTING) or "{}", type=Digests)
        mine = self._digests()
        return sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))

    def _digests(self) -> Digests:
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS]
            for folder in self._folders
            for path in sorted(folder.glob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
