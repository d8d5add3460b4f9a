"""The tools that look for known weaknesses: clean where they look, loud where they cannot."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[2]
NOBODY: Final = "http://127.0.0.1:9"
"""A proxy where nobody listens."""


@pytest.fixture(scope="module")
def cut_off() -> subprocess.CompletedProcess[str]:
    """What the audit says without a network."""
    environment = os.environ | {
        "HTTPS_PROXY": NOBODY,
        "HTTP_PROXY": NOBODY,
        "https_proxy": NOBODY,
        "NO_PROXY": "",
        "npm_config_fetch_retries": "0",
    }
    return subprocess.run(["tools/audit"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110, check=False)


def test_bandit_finds_nothing_in_our_code(cut_off: subprocess.CompletedProcess[str]) -> None:
    assert "ok           bandit, our code\n" in cut_off.stdout, cut_off.stdout + cut_off.stderr


def test_data_that_cannot_be_reached_is_said_aloud_and_is_no_pass(cut_off: subprocess.CompletedProcess[str]) -> None:
    assert cut_off.returncode == 3, cut_off.stdout + cut_off.stderr
    assert cut_off.stdout.count("NOT CHECKED") == 3
    assert "That is no clean result." in cut_off.stdout


def test_the_bill_of_materials_names_what_is_locked(tmp_path: Path) -> None:
    done = subprocess.run(["tools/sbom", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    server: dict[str, Any] = json.loads((tmp_path / "securechat-server.cdx.json").read_text())
    web: dict[str, Any] = json.loads((tmp_path / "securechat-web.cdx.json").read_text())
    locked = {line.partition("==")[0] for line in (ROOT / "requirements/server.txt").read_text().splitlines() if line[:1].isalpha()}

    assert server["bomFormat"] == web["bomFormat"] == "CycloneDX"
    assert {each["name"] for each in server["components"]} == locked
    assert server["metadata"]["component"]["name"] == "securechat"
    assert "preact" in {each["name"] for each in web["components"]}


# ── 118: a dependency that is not the one that was locked ────────────────────────────────────────────────────────────

LOCKS: Final = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_118_every_locked_package_has_one_version_and_its_hashes(lock: Path) -> None:
    wanted = re.split(r"\n(?=[A-Za-z])", re.sub(r"(?m)^\s*#.*\n?", "", lock.read_text()).strip())

    assert len(wanted) >= 2
    for each in wanted:
        assert re.match(r"[A-Za-z0-9._\[\],-]+==[^\s=*]+ (; .*)?\\\n", each), each[:80]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", each), each[:80]
        assert "://" not in each.partition("# via")[0], each[:80]


def wheel(folder: Path, name: str) -> tuple[Path, str]:
    """Make a package, and return it with its hash."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"{name}.py", "")
        packed.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        packed.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr(f"{info}/RECORD", "")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def install(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    """Install one line of a lock file, with the options of `tools/venv`, from a folder instead of the index."""
    (options,) = re.findall(r"pip install (.*--require-hashes.*) -r ", (ROOT / "tools/venv").read_text())
    (folder / "lock.txt").write_text(line)
    command = [sys.executable, "-m", "pip", "install", *options.split(), "--no-index", "--find-links", str(folder)]
    command += ["--target", str(folder / "target"), "-r", str(folder / "lock.txt")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_118_what_is_not_what_was_locked_is_not_installed(tmp_path: Path) -> None:
    _, good = wheel(tmp_path, "honest")
    path, hook = tmp_path / "hooked-1.0.tar.gz", "import pathlib; pathlib.Path(r'%s').touch()" % (tmp_path / "ran")
    with tarfile.open(path, "w:gz") as packed:
        for name, text in {"setup.py": hook, "PKG-INFO": "Metadata-Version: 1.0\nName: hooked\nVersion: 1.0\n"}.items():
            member = tarfile.TarInfo(f"hooked-1.0/{name}")
            member.size = len(text)
            packed.addfile(member, io.BytesIO(text.encode()))
    source = hashlib.sha256(path.read_bytes()).hexdigest()

    changed = install(tmp_path, f"honest==1.0 --hash=sha256:{'0' * 64}\n")
    unlocked = install(tmp_path, "honest==1.0\n")
    hooked = install(tmp_path, f"hooked==1.0 --hash=sha256:{source}\n")
    right = install(tmp_path, f"honest==1.0 --hash=sha256:{good}\n")

    assert [each.returncode for each in (changed, unlocked, hooked, right)] == [1, 1, 1, 0], right.stderr
    assert "DO NOT MATCH THE HASHES" in changed.stderr
    assert "Hashes are required" in unlocked.stderr
    assert not (tmp_path / "ran").exists(), "code of a package that is built here never ran"


def test_118_every_lock_is_installed_with_its_hashes_and_as_wheels() -> None:
    found = [
        line
        for path in [*(ROOT / "tools").iterdir(), ROOT / "Makefile"]
        if path.is_file()
        for line in path.read_text().splitlines()
        if re.search(r"pip install\b", line) and "-r" in line.split()
    ]

    assert len(found) >= 2
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in found), found
