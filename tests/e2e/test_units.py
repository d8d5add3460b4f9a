"""The units of systemd in `deploy/` do what they say: what they start starts, reloads and stops."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.ports import free_port
from support.running import SECURECHAT, RunningServer, clean_environment, wait_until

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "deploy").glob("*.service"))
SECTIONS = {"Unit", "Service", "Install"}


class Unit:
    """A unit whose folders are below another one.

    Args:
        path: Its file.
        root: Takes the place of `/`.
        instance: What stands after the `@`.
    """

    def __init__(self, path: Path, root: Path, instance: str = "") -> None:
        self.text = re.sub(r"/(opt|etc|var/lib)/securechat", rf"{root}/\1/securechat", path.read_text()).replace("%i", instance)

    def all(self, key: str) -> list[str]:
        return re.findall(rf"^{key}=(.*)$", self.text, re.MULTILINE)

    @contextmanager
    def started(self, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Run what it starts, as systemd would."""
        more = dict(line.split("=", 1) for line in self.all("Environment"))
        for file in self.all("EnvironmentFile"):
            more |= dict(line.split("=", 1) for line in Path(file).read_text().splitlines())
        (folder,), (command,) = self.all("WorkingDirectory"), self.all("ExecStart")
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=clean_environment(**more | environment), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which everything is where the units expect it."""
    for folder in ("opt/securechat", "opt/securechat-bots", "etc/securechat/bots", "var/lib/securechat"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "opt/securechat/.venv").symlink_to(Path(SECURECHAT).parents[1])
    return tmp_path


def until(process: subprocess.Popen[str], words: str) -> str:
    """Return what was said up to these words."""
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def stop(process: subprocess.Popen[str], unit: Unit) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(int((unit.all("TimeoutStopSec") or ["90"])[0]))


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_understands_a_unit(path: Path, root: Path) -> None:
    unit = Unit(path, root, "roller")
    assert set(re.findall(r"^\[(\w+)\]$", unit.text, re.MULTILINE)) == SECTIONS
    assert all(re.fullmatch(r"(#.*|\[\w+\]|[A-Z]\w+=.*|)", line) for line in unit.text.splitlines())
    if shutil.which("systemd-analyze") is None:
        return  # Where there is no systemd, its keys are checked by those who have it.
    copy = root / path.name.replace("@", "@roller")
    copy.write_text(unit.text)
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert [line for line in found.stderr.splitlines() if copy.name in line] == []


def test_the_unit_of_the_server_starts_reloads_and_stops_it(root: Path) -> None:
    unit = Unit(ROOT / "deploy/securechat.service", root)
    config = root / "etc/securechat/securechat.json"
    port, http_port = free_port(), free_port()
    page = (ROOT / "docs/howto/keep-it-running.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    settings = json.loads(block) | {"host": "127.0.0.1", "port": port, "http_port": http_port}
    config.write_text(json.dumps(settings))
    with unit.started() as process:
        assert "https://chat.example.org:8443/setup#" in until(process, "Admin")
        data = root / "var/lib/securechat"

        def level() -> str:
            shown = subprocess.run(
                [SECURECHAT, "config", "explain", "--json", "--data", data],
                env=clean_environment(), capture_output=True, text=True, check=True,
            )  # fmt: skip
            return str(json.loads(shown.stdout)["settings"]["log_level"])

        assert level() == "INFO"
        config.write_text(json.dumps(settings | {"log_level": "WARN"}))
        (reload,) = unit.all("ExecReload")
        subprocess.run(shlex.split(reload.replace("$MAINPID", str(process.pid))), check=True)
        wait_until(lambda: level() == "WARN", "the configuration is read again")
        assert stop(process, unit) == 0


def test_the_unit_of_a_bot_runs_the_example_and_leaves_a_bot_without_a_token(root: Path, server: RunningServer) -> None:
    unit = Unit(ROOT / "deploy/securechat-bot@.service", root, "roller")
    server.room("general")
    shutil.copy(ROOT / "examples/roll_bot.py", root / "opt/securechat-bots/roller.py")
    made = subprocess.run(
        [SECURECHAT, "bot", "create", "roller", "--room", "general", "--data", server.data],
        env=clean_environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    variables = root / "etc/securechat/bots/roller.env"
    variables.write_text(re.sub(r"^export ", "", made.stdout, flags=re.MULTILINE))
    with unit.started(HOME=os.environ.get("HOME", "/")) as process:
        until(process, "is online as @roller")
        assert stop(process, unit) == 0
    variables.write_text(variables.read_text().replace("SECURECHAT_TOKEN=sc_bot_", "SECURECHAT_TOKEN=sc_bot_x"))
    with unit.started(HOME=os.environ.get("HOME", "/")) as process:
        assert process.wait(20) == int(unit.all("RestartPreventExitStatus")[0])
