"""Schemathesis against a running server: everything that `spec/openapi.json` describes, with right and wrong data."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from support.running import RunningServer, clean_environment

ROOT: Final = Path(__file__).parents[2]
PROGRAM: Final = ROOT / ".venv-audit/bin/schemathesis"
SECONDS: Final = 30
CHECKS: Final = (
    "not_a_server_error", "status_code_conformance", "response_schema_conformance", "ignored_auth", "negative_data_rejection",
    "missing_required_header",
)  # fmt: skip
ENDS_THE_SESSION: Final = "/api/v1/sessions/current"


@pytest.mark.parametrize("who", ["member", "stranger"])
def test_the_interface_keeps_its_word_whatever_it_is_asked(server: RunningServer, tmp_path: Path, who: str) -> None:
    assert PROGRAM.exists(), "schemathesis is missing: run tools/services"
    session = server.set_up()
    server.room("general", session["user"]["id"])
    report = tmp_path / "report.json"
    command = [
        str(PROGRAM), "run", str(ROOT / "spec/openapi.json"), "--url", server.url, "--phases", "coverage,fuzzing",
        "--max-examples", "20", "--max-time", str(SECONDS if who == "member" else SECONDS // 3), "--seed", "1", "--no-shrink",
        "--continue-on-failure", "--checks", ",".join(CHECKS), "--exclude-path", ENDS_THE_SESSION, "--warnings", "off",
        "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    if who == "member":
        command += ["--header", f"Authorization: Bearer {session['access_token']}"]

    done = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=110, check=False)

    found: dict[str, Any] = json.loads(report.read_text())
    said = [(each["code"], each["title"], each["operations"]) for each in found["failures"]]
    assert (said, found["errors"]) == ([], []), done.stdout[-4_000:]
    assert done.returncode == 0, done.stdout[-4_000:]
    assert found["test_cases"]["generated"] > 50
    if who == "member":
        assert found["operations"]["tested"] == found["operations"]["selected"] > 40
    assert '"level":"ERROR"' not in server.log
    assert "Traceback" not in server.log
