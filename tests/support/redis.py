"""Real Redis for tests: Debian's package, one node or a cluster of three, everything in memory."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support.ports import free_port
from support.running import wait_until


class RedisNode:
    """One Redis.

    Args:
        cluster: It will be part of one.
        tls: Files for TLS instead of clear text: (authority, certificate, key).
        options: Further ones.

    Attributes:
        port: On loopback.
    """

    def __init__(self, *, cluster: bool = False, tls: tuple[Path, Path, Path] | None = None, options: Sequence[str] = ()) -> None:
        assert shutil.which("redis-server"), "Redis is missing: run tools/services"
        self.folder = Path(tempfile.mkdtemp(prefix="sc-redis-"))
        self.port = free_port()
        self._cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000"]
        if not cluster:
            self._cluster = []
        self._options = list(options)
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"rediss://localhost:{self.port}?ssl_ca_certs={self._tls[0]}" if self._tls else f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder), *self._options]
        if self._tls is None:
            options += ["--port", str(self.port)]
        else:
            names = ("--tls-ca-cert-file", "--tls-cert-file", "--tls-key-file")
            options += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            options += [part for name, path in zip(names, self._tls, strict=True) for part in (name, str(path))]
            options += ["--tls-cluster", "yes", "--tls-replication", "yes"]
        with (self.folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(["redis-server", *options, *self._cluster], stdout=log, stderr=log)
        wait_until(lambda: self.ask("PING", check=False) == "PONG", "Redis answers")

    def ask(self, *command: str, check: bool = True) -> str:
        """Execute a command from outside and return what it prints."""
        tls = ["--tls", "--cacert", str(self._tls[0])] if self._tls else []
        done = subprocess.run(["redis-cli", "-p", str(self.port), *tls, *command], capture_output=True, text=True, check=check)
        return done.stdout.strip()

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it with -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        """End it and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class RedisCluster:
    """Three nodes, each with a third of the slots; with `replicas`, three more that take over when one of them ends.

    Args:
        replicas: See above.
        tls: See `RedisNode`.
    """

    def __init__(self, *, replicas: bool = False, tls: tuple[Path, Path, Path] | None = None) -> None:
        self.nodes = [RedisNode(cluster=True, tls=tls) for _ in range(6 if replicas else 3)]
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        secure = ["--tls", "--cacert", str(tls[0])] if tls else []
        command = [
            "redis-cli",
            *secure,
            "--cluster",
            "create",
            *addresses,
            "--cluster-replicas",
            str(int(replicas)),
            "--cluster-yes",
        ]
        subprocess.run(command, check=True, capture_output=True)
        wait_until(
            lambda: all("cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.nodes), "the cluster is ready", 30
        )
        copies = self.nodes[3:]
        wait_until(
            lambda: all("master_link_status:up" in each.ask("INFO", "replication") for each in copies), "replicas follow", 30
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def move(self, slot: int) -> None:
        """Give a slot, in which nothing is, to another node."""
        ids = {node.ask("CLUSTER", "MYID"): node for node in self.nodes}
        owner = next(each for each in self.nodes if each.ask("CLUSTER", "COUNTKEYSINSLOT", str(slot)) and self.owns(each, slot))
        new = next(name for name, node in ids.items() if node is not owner)
        for node in [ids[new], owner, *self.nodes]:
            node.ask("CLUSTER", "SETSLOT", str(slot), "NODE", new)

    def owns(self, node: RedisNode, slot: int) -> bool:
        """Whether a slot is a node's."""
        mine = next(line for line in node.ask("CLUSTER", "NODES").splitlines() if "myself" in line)
        ranges = [part.split("-") for part in mine.split()[8:] if not part.startswith("[")]
        return any(int(each[0]) <= slot <= int(each[-1]) for each in ranges)

    def close(self) -> None:
        """End it."""
        for node in self.nodes:
            node.close()


@contextmanager
def one_node() -> Iterator[RedisNode]:
    """Run one."""
    node = RedisNode()
    try:
        yield node
    finally:
        node.close()


@contextmanager
def cluster(*, replicas: bool = False, tls: tuple[Path, Path, Path] | None = None) -> Iterator[RedisCluster]:
    """Run three as one, or three with a replica each."""
    found = RedisCluster(replicas=replicas, tls=tls)
    try:
        yield found
    finally:
        found.close()
