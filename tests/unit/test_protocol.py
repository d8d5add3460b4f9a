"""What travels: decoding, refusing, encoding, and the written examples."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securechat.domain import commands as c
from securechat.domain.entries import Entry, EntryType
from securechat.errors import ProtocolViolation
from securechat.protocol import frames as f
from securechat.protocol.codec import (
    Block,
    Encoding,
    Form,
    encode_json,
    encode_msgpack,
    form_of,
    message,
    message_of_encoded,
)
from securechat.protocol.handler import BadFrame, client_side, server_side

SPEC = Path(__file__).parents[2] / "spec"
EXAMPLES = sorted((SPEC / "examples").glob("*.json"))
SEND = {"op": "message.send", "id": "1", "room": "rm_1", "cmid": "c", "body": "hi"}


def receive(*frames: Any) -> list[Any]:
    return server_side().receive(json.dumps(frames).encode(), text=True)


def test_good_frames_of_a_message_with_a_bad_one_are_kept() -> None:
    good, bad, pong = receive(SEND, SEND | {"id": "2", "cmid": 7}, {"op": "ping", "id": "3"})

    assert isinstance(good, c.MessageSend)
    assert isinstance(bad, BadFrame)
    assert (bad.id, bad.error.code, bad.error.field) == ("2", "invalid_input", "cmid")
    assert isinstance(pong, f.Ping)


@pytest.mark.parametrize(
    "frame",
    [
        SEND | {"sender": "x"},
        SEND | {"seq": 4},
        SEND | {"room": {"$ne": None}},
        SEND | {"body": ""},
        SEND | {"cmid": "has space"},
        SEND | {"reply_to": 1.0},
        SEND | {"reply_to": 2**53},
        SEND | {"reply_to": True},
        {"op": "no.such"},
        {"id": "4"},
        [],
        "text",
        None,
    ],
    ids=str,
)
def test_a_frame_that_is_not_exactly_right_is_refused(frame: Any) -> None:
    (found,) = receive(frame)

    assert isinstance(found, BadFrame)


@pytest.mark.parametrize(
    "payload", [b"", b"{}", b'"x"', b"[", b"[1,", b"\xff", b"[" * 10_000, b"[" + b"{}," * 300 + b"{}]", b"[NaN]"]
)
def test_a_message_that_is_no_array_of_frames_ends_the_connection(payload: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        server_side().receive(payload, text=True)


def test_encodings_do_not_mix_in_one_connection() -> None:
    handler = server_side()
    handler.receive(json.dumps([SEND]).encode(), text=True)

    with pytest.raises(ProtocolViolation):
        handler.receive(msgspec.msgpack.encode([SEND]), text=False)


def test_the_encoding_of_the_first_message_is_the_connections() -> None:
    handler = server_side()

    assert handler.encoding is None
    handler.receive(msgspec.msgpack.encode([SEND]), text=False)
    assert handler.encoding is Encoding.MSGPACK


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_bring_the_decoder_down(payload: bytes, text: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(ProtocolViolation):
        server_side().receive(payload, text=text)


def unframe(data: bytes) -> tuple[int, bytes]:
    """Take one server message apart, as RFC 6455 5.2 says."""
    size, start = data[1], 2
    if size == 126:
        size, start = int.from_bytes(data[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(data[2:10], "big"), 10
    assert len(data) == start + size
    return data[0], data[start:]


@pytest.mark.parametrize("size", [0, 100, 125, 126, 65_000, 66_000, 200_000])
@pytest.mark.parametrize("encoding", Encoding)
def test_a_block_is_a_finished_websocket_message_of_any_size(size: int, encoding: Encoding) -> None:
    entry = Entry(type=EntryType.MESSAGE_SENT, room="rm_1", seq=1, at=1, user="usr_1", body="x" * size)

    opcode, payload = unframe(Block([entry]).message(form_of(encoding, packed=False)))

    assert opcode == (0x81 if encoding is Encoding.JSON else 0x82)
    (found,) = client_side().receive(payload, text=encoding is Encoding.JSON)
    assert found == entry


@pytest.mark.parametrize("form", Form)
def test_a_block_is_encoded_once_per_form(form: Form) -> None:
    block = Block([f.Drain(after_ms=1)])

    assert block.message(form) is block.message(form)
    assert block.message(form) == message(block.frames, form)


@pytest.mark.parametrize("encoding", Encoding)
def test_packed_is_the_same_with_its_length_before_it(encoding: Encoding) -> None:
    _, payload = unframe(message([f.Drain(after_ms=1)], form_of(encoding, packed=False)))

    assert message([f.Drain(after_ms=1)], form_of(encoding, packed=True)) == len(payload).to_bytes(4, "big") + payload


@given(st.lists(st.integers(0, 2**40), max_size=40))
def test_frames_encoded_one_by_one_make_the_same_message(times: list[int]) -> None:
    frames = [f.Pong(id="x", time=time) for time in times]

    assert message_of_encoded([encode_json(frame) for frame in frames], Form.JSON) == message(frames, Form.JSON)
    assert message_of_encoded([encode_msgpack(frame) for frame in frames], Form.MSGPACK) == message(frames, Form.MSGPACK)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) > 10


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_written_examples_are_read_and_written_exactly(path: Path) -> None:
    example = json.loads(path.read_text())
    handler = server_side() if example["from"] == "client" else client_side()

    frames = handler.receive(json.dumps(example["frames"]).encode(), text=True)

    assert not any(isinstance(frame, BadFrame) for frame in frames)
    again = msgspec.json.decode(encode_json(frames))
    if example["from"] == "server":  # Clients may leave defaults out; the server's own form is fixed.
        assert again == example["frames"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_written_examples_fit_the_schema(path: Path) -> None:
    example = json.loads(path.read_text())
    schema = json.loads((SPEC / f"frames.{example['from']}.schema.json").read_text())

    for frame in example["frames"]:
        jsonschema.Draft202012Validator(schema).validate(frame)
