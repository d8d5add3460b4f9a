"""Fuzz one target, guided by coverage (Atheris): `python tests/fuzz/run.py TARGET [options of libFuzzer] [folders]`.

Where there is no Atheris, the inputs of the folders are tried, and nothing more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

GUIDED = importlib.util.find_spec("atheris") is not None


def replay(target: Callable[[bytes], None], arguments: list[str]) -> None:
    """Try what is in the folders."""
    for folder in (Path(each) for each in arguments if not each.startswith("-")):
        for path in sorted(folder.iterdir()):
            target(path.read_bytes())


def main() -> None:
    """Fuzz until an end that the options set, or until something is found: then the exit status is not 0."""
    atheris: Any = importlib.import_module("atheris") if GUIDED else None
    watched = atheris.instrument_imports(include=["securechat", "fuzz"]) if GUIDED else contextlib.nullcontext()
    name = sys.argv.pop(1)
    with watched:
        target = importlib.import_module("fuzz.targets").TARGETS[name]
    target(b"")  # What is made once is made before the first input is timed.
    if atheris is None:
        replay(target, sys.argv[1:])
        return
    sys.argv[0] = f"{sys.executable} {__file__} {name}"  # How libFuzzer starts itself again, for a merge.
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
