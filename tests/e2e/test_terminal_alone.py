"""The terminal while no server answers: every command says so, and comes to an end."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from securechat.sdk.profile import why_unreachable
from support.ports import free_port
from support.running import SECURECHAT, clean_environment

ONE_SHOT = [["whoami"], ["token", "list"], ["grant", "list"]]


def alone(tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """Run a command that fails with 2 where nothing answers; return the URL and what it wrote to standard error."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = clean_environment(
        SECURECHAT_PROFILE=str(tmp_path / "profile.json"), SECURECHAT_URL=url, SECURECHAT_TOKEN="sc_bot_" + "x" * 40
    )
    found = subprocess.run(
        [SECURECHAT, *arguments], env=environment, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
    )
    assert found.returncode == 2, (found.stdout, found.stderr)
    return url, found.stderr


@pytest.mark.parametrize("arguments", ONE_SHOT, ids=" ".join)
def test_one_command_says_that_nothing_answers(arguments: list[str], tmp_path: Path) -> None:
    url, shown = alone(tmp_path, *arguments)
    assert f"Nothing answers at {url}. Is the server running, and on this port?" in shown
    assert "trying again" not in shown


def test_a_send_tries_again_until_its_time_is_over(tmp_path: Path) -> None:
    url, shown = alone(tmp_path, "send", "ops", "hello", "--timeout", "2", "--cmid", "build-1")
    assert shown.splitlines()[0] == f"Nothing answers at {url}: trying again."
    assert "No answer in 2 s: the message is not surely sent." in shown
    assert "--cmid build-1" in shown
    assert shown.count("trying again") == 1


def test_doctor_tells_each_mistake_on_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"prot": 1, "log_keep": "x"}')
    found = subprocess.run(
        [SECURECHAT, "doctor", "--config", str(tmp_path / "bad.json"), "--data", str(tmp_path / "data")],
        env=clean_environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    lines = [line.strip() for line in found.stdout.splitlines()]
    assert any(line.startswith("prot: unknown key") for line in lines), found.stdout
    assert any(line.startswith("log_keep: ") for line in lines), found.stdout


def test_a_port_without_tls_is_told_from_one_that_does_not_answer() -> None:
    error = ConnectionError("[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1029)")
    assert why_unreachable("https://localhost:8080", error) == "This port speaks http: use http://localhost:8080"
    error = ConnectionError("Server disconnected without sending a response.")
    assert "try https://localhost:8443" in why_unreachable("http://localhost:8443", error)
