"""`securechat cert trust`: the one place that knows the trust stores of operating systems."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from securechat.cli.output import say
from securechat.errors import Shutdown
from securechat.program import program


def trust(ca: Path, *, install: bool) -> None:
    """Install the CA into the system's store, or tell how.

    Raises:
        Shutdown: There is no CA, or a step fails.
    """
    if not ca.exists():
        raise Shutdown(f"There is no CA at {ca} yet. Start the server once: {program()} serve")
    steps = _steps(ca.resolve())
    if not install:
        say("Run these (or the same command with --install):")
        for step in steps:
            say("  " + " ".join(step))
        say("Firefox has its own store: Settings > Certificates > Authorities > Import.")
        return
    for step in steps:
        if subprocess.run(step, check=False).returncode:  # noqa: S603 - fixed commands
            raise Shutdown(f"This step failed: {' '.join(step)}")
    say("The system trusts this CA now. Restart the browser.")


def _steps(ca: Path) -> list[list[str]]:
    if sys.platform == "darwin":
        keychain = "/Library/Keychains/System.keychain"
        return [["sudo", "security", "add-trusted-cert", "-d", "-r", "trustRoot", "-k", keychain, str(ca)]]
    if sys.platform == "win32":
        return [["certutil", "-addstore", "-f", "ROOT", str(ca)]]
    if shutil.which("trust") and not shutil.which("update-ca-certificates"):
        return [["sudo", "trust", "anchor", str(ca)]]
    target = "/usr/local/share/ca-certificates/securechat.crt"
    return [["sudo", "cp", str(ca), target], ["sudo", "update-ca-certificates"]]
