"""`securechat bench`: find the source tree, build the load client, measure. What is measured is in `benchmarks/measure.py`."""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from securechat.errors import Shutdown

ROOT: Final = Path(__file__).parents[3]


def run_bench(only: str | None, seconds: float | None, json_path: Path | None, *, cluster: bool = False) -> None:
    """Measure this machine and print a table.

    Args:
        only: Letters of the measurements, such as `ab`; None for all.
        seconds: Length of each measured window; None for the usual one.
        json_path: Where the figures go as JSON; None for `benchmarks/results/<time>.json`.
        cluster: Measure several servers on PostgreSQL and Redis, not one by itself.

    Raises:
        Shutdown: The source tree, gcc, make or OpenSSL's headers are missing, or `only` or `seconds` make no sense.
    """
    if seconds is not None and seconds <= 0:
        raise Shutdown("--seconds has to be above 0.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # What was started ends with this, however it ends.
    build_client()
    # Who starts PostgreSQL, Redis and HAProxy is among what the tests stand on.
    sys.path[:0] = [each for each in (str(ROOT), str(ROOT / "tests")) if each not in sys.path]
    importlib.import_module("benchmarks.cluster" if cluster else "benchmarks.measure").run(only, seconds, json_path)


def build_client() -> Path:
    """Build the load client where it is missing or old, and return its path.

    Raises:
        Shutdown: It cannot be built.
    """
    folder = ROOT / "benchmarks" / "load"
    if not (folder / "load.c").is_file():
        raise Shutdown("bench needs the source tree: clone the repository and run `make bench` in it.")
    for program in ("make", "gcc"):
        if shutil.which(program) is None:
            raise Shutdown(f"bench needs {program}: `apt install gcc make libssl-dev`, or the like.")
    built = subprocess.run(["make", "-s", "-C", str(folder)], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if built.returncode:
        hint = " Is libssl-dev installed?" if "openssl/" in built.stderr else ""
        raise Shutdown(f"The load client cannot be built: {(built.stderr.strip().splitlines() or ['make failed'])[0]}{hint}")
    return folder / "load"
