"""Where fuzzing begins: the examples and vectors of `spec/`, as inputs of the targets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from fuzz.sockets import mask
from securechat.protocol.frames import name_of
from securechat.rest.routes import ROUTES

ROOT: Final = Path(__file__).parents[2]
MISTAKES: Final = (
    b'[{"op":"ping"},{"op":"nothing","id":"2"}]',
    b"[" * 40,
    b'[{"op":"ping","id":1e400}]',
    b'["\\ud800"]',
    b"[]",
    b"{}",
)
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def _vectors() -> Any:
    return json.loads((ROOT / "spec" / "vectors" / "session-layer.json").read_bytes())


def frames() -> Iterator[bytes]:
    """Give the examples in both encodings, and mistakes."""
    for path in sorted((ROOT / "spec" / "examples").glob("*.json")):
        side = 2 if path.name.startswith("server") else 0
        found = json.loads(path.read_bytes())["frames"]
        yield bytes((side | 1,)) + json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
        yield bytes((side,)) + msgspec.msgpack.encode(found)
    for mistake in MISTAKES:
        yield b"\1" + mistake


def websocket() -> Iterator[bytes]:
    """Give conversations: in one piece and byte by byte, whole and broken frames."""
    hello = bytes.fromhex(_vectors()["cases"][0]["handshake"][0])
    auth = mask(TEXT, b'[{"op":"auth","id":"1","token":"yes"}]')
    ping = mask(TEXT, b'[{"op":"ping","id":"2"}]')
    yield b"\0" + auth + ping + mask(CLOSE, b"\x03\xe8")
    yield b"\2" + auth + mask(TEXT, b'[{"op":"me",', fin=False) + mask(PING, b"x") + mask(CONTINUATION, b'"id":"3"}]')
    yield b"\0" + mask(TEXT, b'[{"op":"auth","id":"1","token":"no"}]') + ping
    yield b"\0" + auth + mask(TEXT, b'[{"op":"resume","id":"4","rooms":{"rm_000000000000r001":3}}]') + auth
    yield b"\0" + mask(BINARY, msgspec.msgpack.encode([{"op": "ping", "id": "1"}])) + mask(PONG, b"") + mask(CLOSE, b"")
    yield b"\1" + mask(BINARY, hello) + mask(BINARY, b"\5" + bytes(32))
    yield b"\1" + mask(TEXT, hello)
    yield b"\0" + mask(3, b"") + mask(TEXT, b"[]") + mask(CLOSE, b"\x03")
    yield b"\0\x81\x7f" + b"\xff" * 8
    yield b"\0" + mask(CONTINUATION, b"") + mask(TEXT, b"", fin=False) * 2


def client_hello() -> Iterator[bytes]:
    """Give the hellos of the vectors, good and bad."""
    found = _vectors()
    yield from (bytes.fromhex(case["handshake"][0]) for case in found["cases"])
    yield from (bytes.fromhex(each["refused"]) for each in found["refusals"] if each["refused"].startswith("01"))


def server_messages() -> Iterator[bytes]:
    """Give what servers of the vectors say, one by one and after one another."""
    found = _vectors()
    for case in found["cases"]:
        messages = [bytes.fromhex(each) for each in case["handshake"][1:4]]
        yield from messages
        yield b"".join(len(each).to_bytes(2, "big") + each for each in messages)
    yield from (bytes.fromhex(each["refused"]) for each in found["refusals"] if each["side"] == "client")


def records() -> Iterator[bytes]:
    """Give records of the vectors as they are, and contents for the peer to seal."""
    found = _vectors()
    yield from (b"\0" + bytes.fromhex(each["refused"]) for each in found["refusals"] if each["refused"].startswith("10"))
    rekey = bytes.fromhex("00000001") + bytes(32)
    share = b"\0\x41\4" + bytes(64)
    messages = (4).to_bytes(4, "big") + b"[{}]"
    for flags in (2, 3, 6, 7, 10, 11):
        yield bytes((flags, 0)) + messages * 3
        yield bytes((flags, 0)) + messages + b"\xff\xff\xff\xff"
        yield bytes((flags, 2)) + b"\x0f\xa0\0\0\x05\xdc"
        for control in (0x20, 0x21, 0x22, 0x23, 0x24):
            yield bytes((flags, 1, control))
            yield bytes((flags, 1, control)) + rekey + share + b"\1\0" + bytes(256)
            yield bytes((flags, 1, control)) + rekey + b"\0\0"


def key_list() -> Iterator[bytes]:
    """Give lists that hold and lists that do not."""
    good = {"host": "chat.example.org", "serial": 7, "issued": 1_795_000_000, "expires": 1_797_000_000, "keys": []}
    for change in ({}, {"host": "b"}, {"serial": -1}, {"expires": 2**63}, {"keys": [{"kid": "11" * 32, "nbf": 0, "naf": 0}]}):
        content = json.dumps(good | change).encode()
        yield b"\1" + content
        yield b"\0" + json.dumps({"list": content.hex(), "root_kid": "", "root_spki": "MA", "sig": "AA"}).encode()


def access_token() -> Iterator[bytes]:
    """Give tokens of others."""
    yield b"\0eyJhbGciOiJub25lIn0.e30."
    yield b"\0eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJ1c3JfMSJ9.AAAA"
    yield b"\1eyJzdWIiOiJ1c3JfMSJ9." + b"A" * 86
    yield b"\1e30.AA"
    yield b"\1.."


def commands() -> Iterator[bytes]:
    """Give a body or a query for each route: the fields of its command with values of every type."""
    for route in ROUTES:
        name = name_of(route.command).encode() + b"\n"
        given = {"id", *(part[1:-1] for part in route.path.split("/") if part.startswith("{"))}
        fields = [field.encode_name for field in msgspec.structs.fields(route.command) if field.name not in given]
        if route.method in {"GET", "DELETE"}:
            yield name + "&".join(f"{field}=1" for field in fields).encode()
        else:
            for value in ("a", 1, True, ["a"]):
                yield name + json.dumps(dict.fromkeys(fields, value)).encode()


SEEDS: Final[dict[str, Callable[[], Iterator[bytes]]]] = {
    "frames": frames,
    "websocket": websocket,
    "client_hello": client_hello,
    "server_messages": server_messages,
    "records": records,
    "key_list": key_list,
    "access_token": access_token,
    "commands": commands,
}
