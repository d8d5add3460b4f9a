"""The server as it was before the newest change of the schema: N-1, out of the history of this repository."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
MIGRATIONS: Final = "src/securechat/store/migrations/versions"
TALK: Final = """
import asyncio, sys
from pathlib import Path
from securechat import __file__ as code
from securechat.sdk.client import ChatClient
from securechat.sdk.pins import PinStore

async def main(url, token, room, text):
    async with asyncio.timeout(20), ChatClient(url, token, pins=PinStore(None)) as client:
        sent = await (await client.room(room)).send(text)
        async for event in client.events():
            if getattr(event, "seq", 0) == sent.seq:
                print(Path(code).parents[1], event.body)
                return

asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True)
class Older:
    """Code of an earlier time.

    Attributes:
        commit: Which.
        source: What has to stand first in `PYTHONPATH`.
        head: The newest migration that it knows.
    """

    commit: str
    source: Path
    head: str

    async def talk(self, url: str, token: str, room: str, text: str) -> str:
        """Send something with the client library of that time, and return what it prints of what came back."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", TALK, url, token, room, text, env=os.environ | {"PYTHONPATH": str(self.source)},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        return out.decode()


def before_the_newest_migration(folder: Path) -> Older:
    """Take it out of git.

    Raises:
        AssertionError: The history is not there: a shallow clone.
    """
    newest = max(path.stem for path in (ROOT / MIGRATIONS).glob("0*.py"))
    added = _git("log", "--diff-filter=A", "--format=%H", "-1", "--", f"{MIGRATIONS}/{newest}.py").decode().strip()
    assert added, "the history of this repository is needed to run an older server: git fetch --unshallow"
    commit = _git("rev-parse", f"{added}^").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit, "src"))) as archive:
        archive.extractall(folder, filter="data")
    head = max(path.stem for path in (folder / MIGRATIONS).glob("0*.py"))[:4]
    return Older(commit[:7], folder / "src", head)


def _git(*words: str) -> bytes:
    found = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()
    return found.stdout
