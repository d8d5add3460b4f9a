"""The documents do not lie: their commands run, their links lead somewhere, their lists are whole."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from securechat.domain import commands as c
from support.running import SECURECHAT, RunningServer, clean_environment

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").glob("*.md")])
GROUPS = {
    "user",
    "db",
    "invite",
    "room",
    "bot",
    "config",
    "cert",
    "backup",
    "audit",
    "storage",
    "keys",
    "servers",
    "token-keys",
    "app",
    "token",
    "grant",
    "subscription",
    "dead-letters",
}
RUN = [path for path in PAGES if "<!-- run -->" in path.read_text()]


def test_there_are_documents_with_commands_in_them() -> None:
    assert len(RUN) >= 3


@pytest.mark.parametrize("page", RUN, ids=lambda path: path.stem)
def test_the_commands_of_a_document_run(page: Path, server: RunningServer, tmp_path: Path) -> None:
    if page.stem != "first-steps":
        server.operator().perform(c.RoomCreate(name="general", kind="public"))
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/bin").symlink_to(Path(SECURECHAT).parent)
    for block in re.findall(r"<!-- run -->\n *```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in filter(None, map(str.strip, block.splitlines())):
            environment = clean_environment(
                SECURECHAT_DATA_DIR=str(server.data), SECURECHAT_HTTP_PORT=str(server.http_port), SECURECHAT_PORT=str(server.port)
            )
            found = subprocess.run(
                line, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert found.returncode == 0 or (found.returncode == 1 and "doctor" in line), (line, found.stdout, found.stderr)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_bot_of_the_readme_is_the_one_that_the_tests_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    assert (ROOT / "examples/roll_bot.py").read_text() in blocks


def test_the_program_of_the_sdks_page_runs(server: RunningServer, tmp_path: Path) -> None:
    room = server.room("general")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/sdk.md").read_text(), re.DOTALL)
    program = tmp_path / "program.py"
    program.write_text(block)
    environment = clean_environment(SECURECHAT_URL=server.url, SECURECHAT_TOKEN=server.bot("one", room))
    found = subprocess.run(
        [Path(SECURECHAT).parent / "python", program], env=environment, capture_output=True, text=True, timeout=30, check=False
    )

    assert "stored as 3" in found.stdout, found.stderr


def test_every_command_of_the_command_line_is_in_its_reference() -> None:
    reference = (ROOT / "docs/reference/cli.md").read_text()
    environment = clean_environment(COLUMNS="200", NO_COLOR="1", TERM="dumb")

    def names(*command: str) -> list[str]:
        shown = subprocess.run([SECURECHAT, *command, "--help"], env=environment, capture_output=True, text=True, check=True).stdout
        found = re.findall(r"^│ ([a-z][a-z-]+) ", shown, re.MULTILINE)
        return [name for name in found if name != "securechat"]

    top = names()
    assert "serve" in top
    for name in top:
        below = names(name) if name in GROUPS else []
        for command in [f"{name} {each}" for each in below] or [name]:
            assert f"`{command}`" in reference, command


def test_invariants_name_tests_that_exist() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    for name in re.findall(r"`(test_[a-z0-9_]+)", (ROOT / "docs/explanation/invariants.md").read_text()):
        assert f"def {name}" in sources, name


def test_a_missing_python_gets_a_clear_line(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / "tools", clone / "tools")
    for python, words in (("no-such-python", "Install Python 3.11"), (str(tmp_path / "old"), "too old")):
        (tmp_path / "old").write_text('#!/bin/sh\ncase "$1" in --version) echo Python 3.9.2;; *) exit 1;; esac\n')
        (tmp_path / "old").chmod(0o755)
        found = subprocess.run(
            [clone / "tools/venv", "server", python], env=dict(os.environ), capture_output=True, text=True, check=False
        )
        assert found.returncode == 2
        assert words in found.stderr
