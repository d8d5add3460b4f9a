"""The data folder: what is where in it, and the lock that lets only one process use it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from securechat.errors import Shutdown
from securechat.store.opening import MARK

AUDIT_KEY: Final = "audit.pem"
"""The file in `keys` that signs the audit log."""


class DataDir:
    """Everything that outlives the process.

    Args:
        root: The folder.
        worker: Which of several processes this one is, that share the folder; their parent has its lock. None for the only one.
    """

    def __init__(self, root: str | Path, worker: int | None = None) -> None:
        self.root = Path(root)
        self._shared = worker is not None
        mark = f"-{worker}" if worker else ""
        self.database = self.root / "securechat.db"
        self.elsewhere = self.root / MARK
        self.tls = self.root / "tls"
        self.keys = self.root / "keys"
        self.logs = self.root / "logs"
        self.audit = self.root / "audit"
        self.admin_socket = self.root / f"admin{mark}.sock"
        self.log = self.logs / f"securechat{mark}.log"
        self._lock_path = self.root / "lock"
        self._lock: int | None = None

    @property
    def has_data(self) -> bool:
        """Whether a server was started on it."""
        return self.database.exists() or self.elsewhere.exists()

    def open(self) -> None:
        """Make the folder if it is missing, and take its lock.

        Raises:
            Shutdown: It cannot be written, or another process uses it.
        """
        os.umask(0o077)  # Whatever this process makes is for its user only.
        try:
            for folder in (self.root, self.tls, self.keys, self.logs, self.audit):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            if self._shared:
                return
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Shutdown(f"The data folder {self.root} cannot be written: {error.strerror}.") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(lock, 32).decode().strip() or "unknown"
            os.close(lock)
            raise Shutdown(f"Another SecureChat (process {owner}) uses {self.root}. Stop it, or choose another --data.") from error
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        self._lock = lock

    def close(self) -> None:
        """Let the lock go."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
