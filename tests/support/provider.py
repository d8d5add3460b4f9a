"""The real provider of `provider/provider.mjs`, as a process of a test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.ports import free_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CLIENT_SECRET = "the secret of the client: %&+"


class RunningProvider:
    """`oidc-provider` on a port of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self.issuer = f"http://localhost:{self.port}"

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return the entry of `oidc`."""
        return {
            "id": "acme", "name": "Acme", "issuer": self.issuer, "client_id": "securechat", "client_secret": CLIENT_SECRET,
            "scopes": ["openid", "profile", "email"], "insecure": True,
        } | more  # fmt: skip

    @contextmanager
    def running(self, origin: str) -> Iterator[RunningProvider]:
        """Run it for a server at this origin."""
        folder = subprocess.run([ROOT / "tools/node-path"], capture_output=True, text=True, check=True).stdout.strip()
        command = [f"{folder}/node", str(HERE / "provider" / "provider.mjs"), str(self.port), f"{origin}/oidc/acme"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert process.stdout is not None
            assert any("ready" in line for line in process.stdout), "the provider did not start"
            yield self
        finally:
            process.terminate()
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()
