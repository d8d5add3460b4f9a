"""Disks of 64 MiB that can be full, groups with little memory, names that nobody answers for: what needs the rights of root."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, Literal

RESOLVER: Final = "127.0.0.77"


@contextmanager
def small_disk(folder: Path, mib: int = 64, mode: str = "0755") -> Iterator[Path]:
    """Mount a small disk on a folder."""
    assert os.getuid() == 0, "a disk of its own needs root"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode={mode}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all that is left on a disk; return the file to remove."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65_536))
        except OSError:
            pass
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass
    return filler


@contextmanager
def little_memory(name: str, mib: int) -> Iterator[Path]:
    """Make a control group; who is in it gets so much memory, and is killed above it."""
    group = Path("/sys/fs/cgroup/memory") / name
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(mib * 2**20))
    try:
        yield group
    finally:
        group.rmdir()


def in_group(group: Path) -> list[str]:
    """Return what a command line begins with to be in a control group."""
    return ["sh", "-c", f'echo $$ > {group}/tasks && exec "$@"', "sh"]


def with_resolver(file: Path) -> list[str]:
    """Return what a command line begins with to ask our own resolver for names."""
    file.write_text(f"nameserver {RESOLVER}\noptions timeout:5 attempts:6\n")
    return ["unshare", "-m", "sh", "-c", f'mount --bind {file} /etc/resolv.conf && exec "$@"', "sh"]


class Resolver(asyncio.DatagramProtocol):
    """Says that every name is 127.0.0.1.

    Attributes:
        trouble: `silent` says nothing, `failing` that it cannot find out (SERVFAIL).
        asked: Questions so far.
    """

    def __init__(self) -> None:
        self.trouble: Literal["", "silent", "failing"] = ""
        self.asked = 0
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        """Keep where answers go."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        """Answer a question, if at all."""
        self.asked += 1
        if self.trouble == "silent" or self._transport is None:
            return
        end = data.index(0, 12) + 5
        question, kind = data[12:end], data[end - 4 : end - 2]
        is_a = kind == b"\x00\x01"
        found = is_a and not self.trouble
        status = b"\x81\x82" if self.trouble else b"\x81\x80"
        head = data[:2] + status + b"\x00\x01" + (b"\x00\x01" if found else b"\x00\x00") + bytes(4)
        answer = b"\xc0\x0c\x00\x01\x00\x01" + bytes(4) + b"\x00\x04\x7f\x00\x00\x01" if found else b""
        self._transport.sendto(head + question + answer, address)


@asynccontextmanager
async def resolver() -> AsyncIterator[Resolver]:
    """Run one."""
    transport, found = await asyncio.get_running_loop().create_datagram_endpoint(Resolver, local_addr=(RESOLVER, 53))
    try:
        yield found
    finally:
        transport.close()
