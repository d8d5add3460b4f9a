"""PinStore: by which keys each server is known to this user. The first one seen is kept; another one is refused."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from securechat.sdk.profile import profile_path


class Pins(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one host.

    Attributes:
        keys: Ids of its keys, in hex.
        root: Id of the root that signs its key list, in hex; empty when it has none.
        key_list: The `list` that was taken last.
        sealed: Whether a sealed session was ever seen: from then on there is no other.
    """

    keys: list[str] = []
    root: str = ""
    key_list: str = ""
    sealed: bool = False


LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


def pins_path() -> Path:
    """Return where pins are: beside the profile."""
    return profile_path().with_name("servers.json")


def default_store(url: str) -> PinStore:
    """Return the user's pins. Those of a server on this machine live as long as the process: it is started anew again and again."""
    return PinStore(None if urlsplit(url).hostname in LOOPBACK else pins_path())


def pins_of(fragment: str) -> list[str]:
    """Return the ids of keys that the fragment of a link names: `#pin=<64 hex digits>,t=…`; at most eight."""
    found = [part.removeprefix("pin=").lower() for part in fragment.replace("&", ",").split(",") if part.startswith("pin=")]
    return [*dict.fromkeys(each for each in found if re.fullmatch("[0-9a-f]{64}", each))][:8]


def secret_of(fragment: str) -> str:
    """Return the secret that the fragment of a link carries: `t=…`; empty for none."""
    return next((part.removeprefix("t=") for part in fragment.replace("&", ",").split(",") if part.startswith("t=")), "")


class PinStore:
    """Pins of all hosts, in one file (mode 0600).

    Args:
        path: None for nowhere: the process remembers, the disk does not.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._hosts: dict[str, Pins] = {}

    def of(self, host: str) -> Pins:
        """Return what is known of a host; nothing is a `Pins` without keys.

        Raises:
            ValueError: The file is damaged. It is not replaced: whoever could damage it could have meant just that.
        """
        if self.path is not None:
            try:
                self._hosts = msgspec.json.decode(self.path.read_bytes(), type=dict[str, Pins])
            except FileNotFoundError:
                pass
            except (OSError, msgspec.DecodeError) as error:
                raise ValueError(f"{self.path} cannot be read: {error}. Repair or remove it.") from error
        return self._hosts.get(host, Pins())

    def all(self) -> dict[str, Pins]:
        """Return what is known of every host."""
        self.of("")
        return self._hosts

    def forget(self, host: str) -> bool:
        """Forget a host; return whether it was known."""
        known = self.all()
        if host not in known:
            return False
        del known[host]
        self._write()
        return True

    def suggest(self, host: str, keys: Sequence[str]) -> None:
        """Take the keys that a link names. It never replaces keys that are known: anybody can send a link."""
        known = self.of(host)
        if keys and not known.keys:
            self.keep(host, msgspec.structs.replace(known, keys=list(keys)))

    def keep(self, host: str, pins: Pins) -> None:
        """Remember. A disk that cannot be written to is no reason not to talk."""
        self._hosts[host] = pins
        self._write()

    def _write(self) -> None:
        """Write the file whole or not at all."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(self._hosts)))
            Path(name).replace(self.path)
        except OSError:
            self.path = None


def shown(key_id: bytes | str) -> str:
    """Return a key id as people compare it: groups of four hex digits, the first half."""
    text = key_id if isinstance(key_id, str) else key_id.hex()
    return " ".join(text[at : at + 4] for at in range(0, 32, 4))


def key_ids(text: str) -> list[str]:
    """Read ids of keys, in hex, with commas between.

    Raises:
        ValueError: They are none.
    """
    found = [word.replace(" ", "").lower() for word in text.split(",") if word.strip()]
    if any(len(bytes.fromhex(word)) != 32 for word in found):
        raise ValueError("A key id has 64 hex digits.")
    return found
