"""The balancers of `deploy/`: the real programs with the files that operators get, on loopback."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from support.certificates import TestCA, new_key, pem
from support.ports import free_port
from support.running import wait_until

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
KINDS: Final = ("haproxy-passthrough", "haproxy-reencrypt", "nginx-passthrough", "nginx-reencrypt")
NAME: Final = "chat.example.org"
"""Of the public address, in the files."""


class Files:
    """Certificates of servers and balancer: one authority, one name.

    Attributes:
        ca: The authority.
        cert: Certificate chain.
        key: Its key.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        authority = TestCA(folder)
        key = new_key()
        self.folder = folder
        self.ca = authority.path
        self.cert, self.key = folder / "chat.crt", folder / "chat.key"
        self.cert.write_bytes(authority.issue(NAME, "localhost", "127.0.0.1", key=key))
        self.key.write_bytes(pem(key))
        self.key.chmod(0o600)
        (folder / "chat.pem").write_bytes(self.cert.read_bytes() + self.key.read_bytes())
        shutil.copy(self.ca, folder / "securechat-ca.crt")

    def settings(self, kind: str) -> dict[str, object]:
        """Return what a server needs behind a balancer of this kind, as the files say."""
        return {
            "tls_cert": str(self.cert), "tls_key": str(self.key), "trusted_proxies": ["127.0.0.1"],
            "proxy_header": "proxy-protocol" if kind.endswith("passthrough") else "x-forwarded-for",
        }  # fmt: skip


class Balancer:
    """One of them in front of servers.

    Args:
        kind: One of `KINDS`.
        files: Certificates.
        servers: Ports of the servers; there may be fewer than in the file.
    """

    def __init__(self, kind: str, files: Files, servers: Sequence[int]) -> None:
        self.kind = kind
        self.port = free_port()
        self._folder = files.folder
        self._log = files.folder / f"{kind}.log"
        program = kind.partition("-")[0]
        source = next(DEPLOY.glob(f"{kind}.c*"))
        text = source.read_text()
        for number, port in enumerate(servers, 1):
            text = text.replace(f"chat{number}.internal:8443", f"127.0.0.1:{port}")
        text = re.sub(r"^.*\bchat\d\.internal:8443.*\n", "", text, flags=re.MULTILINE)
        text = re.sub(r"^(\s*(?:bind|listen)) \S*443\b", rf"\g<1> 127.0.0.1:{self.port}", text, flags=re.MULTILINE)
        text = re.sub(r"/etc/(?:haproxy|nginx)/(?=[a-z-]+\.(?:crt|key|pem))", f"{files.folder}/", text)
        text = text.replace("/run/", f"{files.folder}/")
        # Fewer descriptors than machines of their own have.
        text = re.sub(r"(maxconn|worker_connections) \d+", r"\1 2000", text)
        path = files.folder / source.name
        path.write_text(text)
        binary = shutil.which(program) or shutil.which(program, path="/usr/sbin")
        assert binary, f"{program} is missing: run tools/services"
        self._command = [binary, "-db", "-f", str(path)] if program == "haproxy" else [binary, "-c", str(path), "-g", "daemon off;"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where people come."""
        return f"https://localhost:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it said."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        """Start it, and wait until it takes connections."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            wait_until(self._listens, f"{self.kind} listens")
        except AssertionError:
            self.__exit__()
            raise AssertionError(self.log) from None
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
