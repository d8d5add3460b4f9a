"""A-JSON, attacks 19 to 33: what stands in a message.

28, markup in every field, is for whoever draws it: `tests/e2e/test_browser_attacks.py`; here it comes back as it went in. 27 has no
object on the server, which renders nothing; 31 is `tests/integration/test_audit.py`: the audit log is all that is exported as a table.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from securechat.domain import commands as c
from securechat.domain.limits import LIMITS
from securechat.protocol.frames import COMMANDS, name_of
from securechat.protocol.handler import too_deep
from support.people import BY_COMMAND
from support.running import PASSWORD, RunningServer

JSON = {"Content-Type": "application/json"}


class World:
    """One account, a room of its own, and both doors for bytes as they are."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        session = server.set_up()
        self.user = session["user"]["id"]
        self.http = httpx.Client(
            trust_env=False,
            timeout=20,
            base_url=f"{server.url}/api/v1",
            headers={"Authorization": f"Bearer {session['access_token']}"},
        )
        self.room = self.http.post("/rooms", json={"name": "room"}).json()["id"]
        self.messages = f"/rooms/{self.room}/messages"
        self._token = session["access_token"]
        self._connect()

    def _connect(self) -> None:
        url = self.server.url.replace("http", "ws", 1) + "/gateway"
        self.socket = connect(
            url, subprotocols=[Subprotocol("securechat.v1.clear")], compression=None, proxy=None, legacy=True, ping_interval=None
        )
        self.socket.recv()
        self.socket.send(json.dumps([{"op": "auth", "id": "a", "token": self._token}]))
        self.socket.recv()

    def post(self, content: bytes, path: str = "") -> tuple[int, str]:
        """Send a body over REST; return status and code."""
        answer = self.http.post(path or self.messages, content=content, headers=JSON)
        return answer.status_code, answer.json().get("code", "")

    def ask(self, frame: bytes, frame_id: str = "1") -> dict[str, Any]:
        """Send one frame over the gateway; return its answer."""
        try:
            self.socket.send(b"[" + frame + b"]", text=True)
            while True:
                for each in json.loads(self.socket.recv(timeout=20)):
                    if each["op"] in {"reply", "error"} and each.get("id", "") in {frame_id, ""}:
                        return dict(each)
        except ConnectionClosed:
            code = self.socket.close_code
            self._connect()
            return {"op": "closed", "code": code}


@pytest.fixture(scope="module")
def world(shared_server: RunningServer) -> Iterator[World]:
    found = World(shared_server)
    yield found
    found.http.close()
    found.socket.close()


def nested(depth: int, left: str = "[", right: str = "]") -> bytes:
    return (left * depth + "1" + right * depth).encode()


@pytest.mark.parametrize("depth", [33, 100, 10_000])
@pytest.mark.parametrize(("left", "right"), [("[", "]"), ('{"a":', "}")])
def test_19_what_is_nested_too_deeply_is_refused_unread(world: World, depth: int, left: str, right: str) -> None:
    deep = nested(depth, left, right)

    assert world.post(b'{"body":' + deep + b"}") == (400, "too_deep")
    if depth < 500:
        assert world.ask(b'{"op":"message.send","id":"1","room":"x","cmid":"1","body":' + deep + b"}")["code"] == "too_deep"
        assert world.ask(b'{"op":"ping","id":"1","more":' + deep + b"}")["code"] == "too_deep"


def test_19_the_depth_of_brackets_in_a_text_does_not_count() -> None:
    assert not too_deep(json.dumps({"body": "[" * 1_000 + '\\"' + "{" * 1_000}).encode())
    assert not too_deep(nested(32))
    assert too_deep(nested(33))
    assert too_deep(b'{"a":"\\\\",' + b'"b":' + nested(33) + b"}")


def test_19_looking_for_the_depth_takes_no_time() -> None:
    worst = [b"[" * 131_072, b"[]" * 65_536, b'"' * 131_071, b'"\\' * 65_536, b"[[]" * 43_690, b'{"a":[' * 20_000]
    began = time.perf_counter()
    for text in worst:
        too_deep(text)

    assert time.perf_counter() - began < 0.5


def test_20_too_many_names_a_long_name_and_a_name_given_twice_are_refused(world: World) -> None:
    many = json.dumps({f"k{number}": 1 for number in range(4_000)}).encode()
    for body in (
        many,
        json.dumps({"k" * 60_000: 1}).encode(),
        b'{"cmid":"1","body":"a","body":"b"}',
        b'{"cmid":"1","body":"a","\\u0062ody":"b"}',
    ):
        assert world.post(body)[0] == 400
    for frame in (many, json.dumps({"k" * 60_000: 1}).encode()):
        assert world.ask(frame)["code"] == "invalid_input"
    assert world.post(b'{"kind":"public","kind":"private","name":"x"}', "/rooms")[0] == 400
    assert world.http.get("/users", params=[("limit", 1), ("limit", 2)]).status_code == 400


@pytest.mark.parametrize(
    "number",
    [
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "9007199254740993",
        "1" * 10_000,
        "-1",
        "-0",
        "1.0",
        "1e2",
        "1.5",
        "0x1",
        "01",
        "+1",
        '"1"',
        "true",
    ],
)
def test_21_a_number_that_is_none_is_refused(world: World, number: str) -> None:
    body = b'{"cmid":"n","body":"x","reply_to":' + number.encode() + b"}"

    assert world.post(body)[0] == 400
    frame = b'{"op":"message.send","id":"1","room":"%b","cmid":"n","body":"x","reply_to":%b}' % (
        world.room.encode(),
        number.encode(),
    )
    assert world.ask(frame)["code"] in {"invalid_input", 4400}


def test_20_on_the_gateway_the_last_of_two_counts_for_everybody(world: World) -> None:
    """ADR 0023: nobody else reads its frames, so there are no two readings."""
    frame = b'{"op":"message.send","id":"1","room":"%b","cmid":"twice","body":"first","b\\u006fdy":"last"}' % world.room.encode()

    assert world.ask(frame)["op"] == "reply"
    page = world.http.get(f"/rooms/{world.room}/entries", params={"limit": 1}).json()
    assert page["entries"][0]["body"] == "last"


WRONG: list[Any] = [{"$ne": None}, [], [["x"]], True, None, 7, 1.5]


def fields_of(command: type[c.Command]) -> list[msgspec.structs.FieldInfo]:
    return [field for field in msgspec.structs.fields(command) if field.name != "id"]


def wrong_for(field: msgspec.structs.FieldInfo) -> list[Any]:
    """Return those of the wrong values that the field does not take."""
    found = []
    for value in WRONG:
        try:
            msgspec.json.decode(json.dumps(value).encode(), type=field.type)
        except (msgspec.ValidationError, msgspec.DecodeError):
            found.append(value)
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_22_another_type_is_refused_in_every_field_of_every_command(world: World, command: type[c.Command]) -> None:
    good = {field.name: "x" for field in fields_of(command) if field.required}
    for field in fields_of(command):
        values = wrong_for(field)
        assert len(values) >= 3, field.name
        for value in values:
            frame = json.dumps({"op": name_of(command), "id": "1"} | good | {field.name: value}).encode()
            answer = world.ask(frame)
            assert (answer["op"], answer["code"]) == ("error", "invalid_input"), (field.name, value, answer)
            assert "Traceback" not in str(answer)
            route = BY_COMMAND.get(command)
            if route is not None and route.method in {"POST", "PUT", "PATCH"} and "{" + field.name + "}" not in route.path:
                path = route.path.replace("{room}", world.room).replace("{user}", world.user).replace("{seq}", "1")
                path = path.replace("{emoji}", "x").replace("{action}", "message.send")
                body = {name: text for name, text in good.items() if "{" + name + "}" not in route.path} | {field.name: value}
                answered = world.http.request(route.method, path, content=json.dumps(body), headers=JSON)
                assert answered.status_code == 400, (route, field.name, value, answered.text)


@pytest.mark.parametrize(
    "body",
    [
        b'{"cmid":"s","body":"\\ud800"}', b'{"cmid":"s","body":"\\udc00\\ud800"}', b'{"cmid":"s","body":"a\\u0000b"}',
        b'\xef\xbb\xbf{"cmid":"s","body":"x"}', b'{"cmid":"s","body":"\xc0\xaf"}', b'{"cmid":"s","body":"\xed\xa0\x80"}',
        '{"cmid":"s","body":"x"}'.encode("utf-16"), '{"cmid":"s","body":"x"}'.encode("utf-32"), b'{"cmid":"s","body":"\xff"}',
    ],
)  # fmt: skip
def test_23_text_that_is_no_text_is_refused(world: World, body: bytes) -> None:
    assert world.post(body) == (400, "invalid_input")
    frame = body.replace(b'"cmid"', b'"op":"message.send","id":"1","room":"%b","cmid"' % world.room.encode())
    assert world.ask(frame)["code"] in {"invalid_input", 4400}


@pytest.mark.parametrize("value", ["a\x00b", "\x00", "%00"])
def test_23_a_nul_in_a_name_or_a_search_is_no_mistake_of_ours(world: World, value: str) -> None:
    found = [
        world.http.get("/users", params={"query": value}), world.http.get("/rooms:lookup", params={"name": value}),
        world.http.get("/rooms:browse", params={"query": value}), world.http.post("/rooms", json={"name": value}),
        world.http.patch("/me", json={"display_name": value}), world.http.get(f"/rooms/{'%00'}"),
    ]  # fmt: skip

    assert {answer.status_code for answer in found} <= {200, 201, 400, 404}


@pytest.mark.parametrize(
    "field", ["sender", "seq", "ts", "at", "user", "device", "is_admin", "type", "room_id", "target", "deleted", "id", "op"]
)
def test_24_what_the_server_says_is_not_taken_from_a_client(world: World, field: str) -> None:
    assert world.post(json.dumps({"cmid": "f", "body": "x", field: 1}).encode()) == (400, "invalid_input")
    if field not in {"id", "op"}:
        frame = {"op": "message.send", "id": "1", "room": world.room, "cmid": "f", "body": "x", field: 1}
        assert world.ask(json.dumps(frame).encode())["code"] == "invalid_input"


def test_24_an_unknown_command_is_refused(world: World) -> None:
    for op in ("message.forge", "", "__class__", "eval"):
        assert world.ask(json.dumps({"op": op, "id": "1"}).encode())["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("", 400), ("x", 201), ("x" * LIMITS.body_bytes, 201), ("x" * (LIMITS.body_bytes + 1), 400), ("😀" * 4_096, 201),
        ("😀" * 4_097, 400), ("é" * 8_193, 400), ("\n" * 10, 400),
    ],
)  # fmt: skip
def test_25_the_limit_of_a_body_is_in_bytes(world: World, body: str, status: int) -> None:
    assert world.http.post(world.messages, json={"cmid": f"l{len(body)}{status}", "body": body}).status_code == status


@pytest.mark.parametrize("name", ["a" + "\u0301" * 1_000, "\u202eevil", "a\u200bb", "   ", "line\n" * 1_000, "\u2066x", "\ufeffx"])
def test_26_a_name_that_cannot_be_read_is_refused_and_a_body_kept(world: World, name: str) -> None:
    assert world.post(json.dumps({"name": name}).encode(), "/rooms")[0] == 400
    if name.strip():
        sent = world.http.post(world.messages, json={"cmid": f"z{abs(hash(name))}", "body": name})
        assert sent.status_code == 201
        page = world.http.get(f"/rooms/{world.room}/entries", params={"limit": 1}).json()
        assert page["entries"][0]["body"] == name


def test_26_usernames_have_no_look_alikes(world: World) -> None:
    for username in ("аna", "ａdmin\u0301", "an\u200da", "ana\u202e", "ɑna"):
        assert world.http.post("/admin/users", json={"username": username}).status_code in {400, 409}, username


NASTY = [
    "<script>alert(1)</script>", "javascript:alert(1)", "{0.__class__}", "%n%s%x", "${jndi:ldap://x/y}", "{{7*7}}", "'; DROP TABLE users; --",
    '" OR 1=1 --', "%' OR '1'='1", "_%\\", "=cmd|'/C calc'!A0", "!!python/object/apply:os.system ['id']", "gASVKAAAAAAAAACM", "a\tb", "\\x00",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_28_30_32_33_text_is_text_in_every_field(world: World, text: str) -> None:
    found = [
        world.http.post(world.messages, json={"cmid": f"n{abs(hash(text))}", "body": text}), world.http.patch("/me", json={"display_name": text}),
        world.http.patch(f"/rooms/{world.room}", json={"topic": text}), world.http.get("/users", params={"query": text}),
        world.http.get("/rooms:browse", params={"query": text}), world.http.get("/rooms:lookup", params={"name": text}),
        world.http.get(f"/rooms/{world.room}/entries", params={"after": text}), world.http.post("/sessions", json={"username": text, "password": text}),
        world.http.put("/rooms/x/members/y", content=text.encode(), headers=JSON),
    ]  # fmt: skip
    page = world.http.get(f"/rooms/{world.room}/entries", params={"limit": 5}).json()["entries"]

    assert {answer.status_code for answer in found} <= {200, 201, 400, 401, 404}
    assert text in {entry.get("body") for entry in page}
    assert found[1].json()["user"]["display_name"] == " ".join(text.split())
    world.http.patch("/me", json={"display_name": "Ana"})


def test_30_a_search_takes_its_signs_as_they_are(world: World) -> None:
    for query in ("%", "%na", "_na", "\\", "*", "ana%", "a" * 4_000):  # `_` stands between words, and for no letter.
        assert world.http.get("/users", params={"query": query}).json()["users"] == []
    assert world.http.get("/users", params={"query": "a" * 10_000}).status_code == 400


def test_29_a_line_of_the_log_stays_one_line_whatever_is_in_it(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data", "--log-level", "DEBUG").start()
    try:
        for path in ("/api/v1/a%0d%0aforged%20line", "/api/v1/%1b[31mred", '/api/v1/{"level":"FATAL"}', "/api/v1/" + "x" * 20_000):
            httpx.get(server.url + path, trust_env=False)
        nasty = 'x\r\n\x1b[31m{"level":"FATAL"}'
        server.post("/sessions", {"username": nasty, "password": PASSWORD}, status=401)
    finally:
        server.stop()
    lines = server.log.splitlines()
    records = [json.loads(line) for line in lines]

    paths = [record["path"] for record in records if record["event"] == "request"]
    assert [path[:12] for path in paths[:4]] == ["/api/v1/a%0D", "/api/v1/%1B%", "/api/v1/%7B%", "/api/v1/xxxx"]
    assert all(record["level"] != "FATAL" for record in records)
    assert "\x1b" not in server.log
    assert max(map(len, lines)) < 32_768


def test_33_nothing_is_read_by_a_loader_that_can_run_code() -> None:
    source = Path(__file__).parent.parent.parent / "src"
    found = subprocess.run(
        ["grep", "-rnE", r"^\s*(import|from) (pickle|marshal|shelve|yaml|dill)|\b(eval|exec)\(", str(source), "--include=*.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert found.stdout == ""
