"""HTTP by hand: for requests that no library would send."""

from __future__ import annotations

import socket
import time

UPGRADE = {
    "Host": "localhost", "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "securechat.v1.clear",
}  # fmt: skip


def head(line: str, headers: dict[str, str | list[str]] | dict[str, str]) -> bytes:
    """Return a request head; a list is a header that comes more than once."""
    lines = [line]
    for name, value in headers.items():
        lines += [f"{name}: {each}" for each in (value if isinstance(value, list) else [value])]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def upgrade(path: str = "/gateway", line: str = "", **headers: str | list[str] | None) -> bytes:
    """Return an upgrade that is right but for these headers; None leaves one out."""
    given: dict[str, str | list[str]] = {**UPGRADE}
    for name, value in headers.items():
        key = name.replace("_", "-")
        key = next((each for each in given if each.lower() == key.lower()), key)
        if value is None:
            given.pop(key, None)
        else:
            given[key] = value
    return head(line or f"GET {path} HTTP/1.1", given)


def talk(port: int, *data: bytes, timeout_s: float = 8.0, source: str = "127.0.0.1") -> bytes:
    """Send bytes and return what comes until the end of the first head, or until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(source, 0)) as connection:
        answer = b""
        try:
            for part in data:
                connection.sendall(part)
            while b"\r\n\r\n" not in answer:
                more = connection.recv(65_536)
                if not more:
                    break
                answer += more
        except OSError:
            pass
        return answer


def status_of(answer: bytes) -> int:
    """Return the status of an answer; 0 when the connection ended without one."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


def cut_after(port: int, first: bytes, drip: bytes, every_s: float, within_s: float) -> float:
    """Send something, then a little now and then; return after how many seconds the server ends the connection."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=every_s) as connection:
        try:
            connection.sendall(first)
            while time.monotonic() - began < within_s:
                try:
                    if not connection.recv(65_536):
                        return time.monotonic() - began
                except TimeoutError:
                    connection.sendall(drip)
        except OSError:
            return time.monotonic() - began
    return float("inf")
