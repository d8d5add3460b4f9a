"""The machine that is measured on, and where the figures go."""

from __future__ import annotations

import os
import platform
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import apsw
from benchmarks import world as w


def describe(cores: w.Cores) -> dict[str, Any]:
    """Return what the figures were taken on."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION, "sqlite": apsw.sqlite_lib_version(), "commit": _commit(), "server_core": cores.server,
        "load_core": cores.load, "load_average": os.getloadavg()[0],
    }  # fmt: skip


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    command = ["git", "-C", str(w.HERE), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


def filesystem(path: Path) -> str:
    """Return the type of the file system that holds a path: on tmpfs a commit costs nothing and proves nothing."""
    best, kind = "", "unknown"
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        inside = str(path.resolve()).startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def default_path(began: float, prefix: str = "") -> Path:
    """Return where the figures go: named by when the run began."""
    return w.HERE / "results" / time.strftime(f"{prefix}%Y-%m-%d-%H%M%S.json", time.localtime(began))
