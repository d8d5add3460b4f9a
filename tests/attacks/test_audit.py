"""The tools that look for known weaknesses: clean where they look, loud where they cannot."""

from __future__ import annotations

import json
import os
import subprocess
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
