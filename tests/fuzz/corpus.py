"""The kept corpus: a file per target, a line per input, in hex."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "corpus"
LONGEST: Final = 4_096
"""Bytes of an input. Limits above it have tests of their own."""


def kept(target: str) -> list[bytes]:
    """Return what is kept of a target."""
    path = FOLDER / f"{target}.txt"
    return [bytes.fromhex(line) for line in path.read_text().splitlines()] if path.exists() else []


def keep(target: str, inputs: Iterable[bytes]) -> None:
    """Replace what is kept of a target."""
    FOLDER.mkdir(exist_ok=True)
    lines = sorted({each.hex() for each in inputs}, key=lambda line: (len(line), line))
    (FOLDER / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))


def spread(folder: Path, inputs: Iterable[bytes]) -> Path:
    """Write inputs as libFuzzer reads them: a file each, named by its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
    return folder
