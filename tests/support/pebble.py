"""Pebble, the ACME authority for tests, with a DNS that sends every name to this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.request
from pathlib import Path
from typing import Any, Final

from support.certificates import Files
from support.ports import free_port
from support.running import wait_until

PROGRAMS: Final = ("pebble", "pebble-challtestsrv")


class Pebble:
    """An authority of its own for one test.

    Args:
        folder: For its files.
        tls_port: Where it checks TLS-ALPN-01.
        http_port: Where it checks HTTP-01.
    """

    def __init__(self, folder: Path, tls_port: int, http_port: int) -> None:
        for program in PROGRAMS:
            assert shutil.which(program), f"{program} is missing: run tools/services (on Debian: apt install pebble)"
        folder.mkdir()
        self._files = Files(folder)
        self._files.good("localhost", "127.0.0.1")
        self._port, self._management, self._dns, self._names = free_port(), free_port(), free_port(), free_port()
        self._config = folder / "pebble.json"
        settings: dict[str, Any] = {
            "listenAddress": f"127.0.0.1:{self._port}", "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self._files.cert), "privateKey": str(self._files.key),
            "httpPort": http_port, "tlsPort": tls_port, "ocspResponderURL": "", "externalAccountBindingRequired": False,
        }  # fmt: skip
        self._config.write_text(json.dumps({"pebble": settings}))
        self._log = folder / "pebble.log"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._context = ssl.create_default_context(cafile=str(self._files.ca.path))

    @property
    def settings(self) -> dict[str, Any]:
        """What a configuration says to use it."""
        return {
            "acme_directory": f"https://localhost:{self._port}/dir", "acme_ca": str(self._files.ca.path), "acme_agree": True,
            "acme_email": "admin@example.org",
        }  # fmt: skip

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text()

    def start(self, **environment: str) -> Pebble:
        """Start, and return when it answers."""
        names = [
            "pebble-challtestsrv", "-dns01", f"127.0.0.1:{self._dns}", "-http01", "", "-https01", "", "-tlsalpn01", "",
            "-management", f"127.0.0.1:{self._names}", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "",
        ]  # fmt: skip
        authority = ["pebble", "-config", str(self._config), "-dnsserver", f"127.0.0.1:{self._dns}", "-strict"]
        env = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0", "PEBBLE_AUTHZREUSE": "0"} | environment
        with self._log.open("ab") as log:
            for command in (names, authority):
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=env))
        wait_until(self._answers, "pebble answers")
        return self

    def stop(self) -> None:
        """End both programs."""
        for process in self._processes:
            process.kill()
            process.wait(10)
        self._processes = []

    def root(self, folder: Path) -> str:
        """Fetch its root, which is another one after each start, and return the file."""
        path = folder / "pebble-root.pem"
        with urllib.request.urlopen(f"https://localhost:{self._management}/roots/0", context=self._context, timeout=10) as answer:
            path.write_bytes(answer.read())
        return str(path)

    def _answers(self) -> bool:
        ended = [process.args for process in self._processes if process.poll() is not None]
        assert not ended, f"{ended} ended: {self.log}"
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1), socket.create_connection(("127.0.0.1", self._names), 1):
                return True
        except OSError:
            return False
