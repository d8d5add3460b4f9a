"""A-DOS, attacks 103 to 113: too much of everything, against a server with the limits that everybody gets.

105, who comes and goes all the time, is `test_who_comes_and_goes_all_the_time_is_shown_at_most_once_in_three_seconds`.
111, memory of idle connections, is `make bench`; what is above the cap is refused, see attack 12. 113 is `tests/contract/test_lost_answers.py`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from support.raw_http import status_of, talk, upgrade
from support.raw_socket import RawSocket, frame
from support.running import SECURECHAT, RunningServer, clean_environment, wait_until

Attach = Callable[[int], Awaitable[RawSocket]]


def running(folder: Path, **settings: Any) -> RunningServer:
    """Start a server with the limits that everybody gets, but for these."""
    server = RunningServer(folder / "data")
    server.config.write_text(json.dumps(settings))
    return server.start()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    found = running(tmp_path)
    yield found
    found.stop()


def message(*frames: dict[str, Any]) -> bytes:
    return frame(json.dumps(frames).encode())


def send(room: str, number: int, body: str = "x") -> dict[str, Any]:
    return {"op": "message.send", "id": str(number), "room": room, "cmid": f"c{number}", "body": body}


async def answers(socket: RawSocket) -> AsyncIterator[dict[str, Any]]:
    """Give replies and errors until the connection ends."""
    while (frames := await socket.receive()) is not None:
        for each in frames:
            if each["op"] in {"reply", "error", "pong"}:
                yield each


async def ask(socket: RawSocket, *frames: dict[str, Any]) -> list[dict[str, Any]]:
    """Send frames and return as many answers."""
    await socket.flush(message(*frames))
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        async for each in answers(socket):
            found.append(each)
            if len(found) == len(frames):
                break
    return found


async def latencies(socket: RawSocket, room: str, count: int, first: int) -> list[float]:
    """Send messages as people do, and return how long each took."""
    found = []
    for number in range(first, first + count):
        began = time.perf_counter()
        (answer,) = await ask(socket, send(room, number))
        assert answer["op"] == "reply", answer
        found.append(time.perf_counter() - began)
        await asyncio.sleep(max(0.0, 0.08 - found[-1]))
    return found


async def flood(socket: RawSocket, frames: Callable[[int], list[dict[str, Any]]], results: dict[str, int]) -> int:
    """Send without a pause until the connection ends; return the close code."""

    async def write() -> None:
        for number in range(100_000):
            if not await socket.flush(message(*frames(number))):
                return
            await asyncio.sleep(0)

    writing = asyncio.create_task(write())
    async for each in answers(socket):
        name = each.get("code", each["op"])
        results[name] = results.get(name, 0) + 1
        if name == "rate_limited":
            assert each["retryable"]
            assert each["retry_after_ms"] > 0
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert socket.close_code is not None
    return socket.close_code


FLOODS: dict[str, Callable[[str], Callable[[int], list[dict[str, Any]]]]] = {
    "messages": lambda room: lambda number: [send(room, number * 100 + each) for each in range(100)],
    "commands": lambda room: lambda _: [{"op": "fetch", "id": str(each), "room": room} for each in range(100)],
    "pings": lambda _: lambda _: [{"op": "ping", "id": "p"}] * 200,
    "frames that mean nothing": lambda _: lambda _: [{"op": "nothing", "id": "n", "x": each} for each in range(100)],
    "empty messages": lambda _: lambda _: [],
    "rooms": lambda _: lambda number: [{"op": "room.create", "id": "r", "name": f"r {number} {each}"} for each in range(50)],
    "typing": lambda room: lambda _: [{"op": "typing.start", "id": "t", "room": room}] * 100,
    "calls to everybody": lambda room: lambda number: [send(room, number * 100 + each, "@all") for each in range(100)],
}


@pytest.mark.alone
@pytest.mark.parametrize("kind", FLOODS)
async def test_103_105_106_a_flood_is_told_to_wait_then_ended_and_others_go_on(
    server: RunningServer, attach: Attach, kind: str
) -> None:
    room, other = server.room("ops"), server.room("other")
    flooder, somebody = server.bot("flooder", room), server.bot("somebody", other)
    calm = await attach(server.http_port)
    await calm.authenticate(somebody)
    quiet = await latencies(calm, other, 25, 0)
    wild = await attach(server.http_port)
    await wild.authenticate(flooder)
    results: dict[str, int] = {}
    flooding = asyncio.create_task(flood(wild, FLOODS[kind](room), results))
    during = await latencies(calm, other, 25, 100)
    code = await asyncio.wait_for(flooding, 40)

    assert code in {4429, 1006}, results
    assert results.get("rate_limited", 0) >= 500, results
    assert results.get("reply", 0) + results.get("pong", 0) + results.get("invalid_input", 0) < 900, results
    assert statistics.median(during) < 5 * statistics.median(quiet) + 0.03, (statistics.median(quiet), statistics.median(during))
    wait_until(lambda: "goes on after being told to wait" in server.log, "the reason is in the log")
    if kind != "rooms":  # Of one person so much is refused there that their records in the audit log have their limit, too.
        wait_until(lambda: ended(server) == [(server.operator().user("flooder").id, 4429)], "and who it was is remembered")


def ended(server: RunningServer) -> list[tuple[str, object]]:
    """Return (user, close code) of those who were sent away, from the audit log."""
    page: c.AuditPage = server.operator().perform(c.AuditList(action="session.refused"))
    return [(record.actor, record.details["code"]) for record in page.records]


@pytest.mark.parametrize("text", ["not JSON", '{"op":"ping"}', "[" * 100])
async def test_what_is_not_the_protocol_ends_the_connection_and_is_remembered(
    server: RunningServer, attach: Attach, text: str
) -> None:
    socket = await attach(server.http_port)
    await socket.authenticate(server.bot("wrong", server.room("ops")))
    socket.write(frame(text.encode()))

    assert await socket.closed() == 4400
    wait_until(lambda: ended(server) == [(server.operator().user("wrong").id, 4400)], "who it was is remembered")
    assert "session refused" in server.log


async def test_103_who_has_not_said_who_they_are_is_counted_by_address(server: RunningServer, attach: Attach) -> None:
    wild = await attach(server.http_port)
    results: dict[str, int] = {}
    code = await asyncio.wait_for(flood(wild, lambda _: [{"op": "ping", "id": "p"}] * 250, results), 40)

    assert code in {4429, 1006}
    assert results["pong"] < 6_000


async def test_103_a_room_has_a_limit_for_all_its_members_that_nobody_outside_can_use_up(tmp_path: Path, attach: Attach) -> None:
    server = running(tmp_path, rates={"room": {"burst": 6, "per_s": 0.001}})
    try:
        room, other = server.room("ops"), server.room("other")
        inside = [await attach(server.http_port) for _ in range(3)]
        for number, each in enumerate(inside):
            await each.authenticate(server.bot(f"inside{number}", room, other))
        outside = await attach(server.http_port)
        await outside.authenticate(server.bot("outside"))
        strangers = await ask(outside, *[send(room, number) for number in range(20)])
        found = [(await ask(each, *[send(room, number) for number in range(3)])) for each in inside]
        elsewhere = await ask(inside[2], send(other, 1))
    finally:
        server.stop()

    assert {each["code"] for each in strangers} == {"forbidden"}
    assert [[each.get("code", "") for each in three] for three in found] == [[""] * 3, [""] * 3, ["rate_limited"] * 3]
    assert elsewhere[0]["op"] == "reply"


def test_103_an_address_has_a_limit_at_every_door_and_another_address_its_own(tmp_path: Path) -> None:
    server = running(tmp_path, rates={"address": {"burst": 12, "per_s": 0.02}}, trusted_proxies=["127.0.0.1"])
    try:
        with httpx.Client(trust_env=False, base_url=server.url) as http:

            def get(path: str, address: str) -> httpx.Response:
                return http.get(path, headers={"X-Forwarded-For": address})

            found = [get(path, "198.51.100.1") for path in ["/api/v1/me", "/nothing", "/api/v1/users?limit=x", "/"] * 4]
            probes = [get("/healthz", "198.51.100.1").status_code for _ in range(3)]
            other = get("/api/v1/me", "198.51.100.2").status_code
    finally:
        server.stop()
    limited = [answer for answer in found if answer.status_code == 429]

    assert len(limited) == 4
    assert found.index(limited[0]) == 12
    assert int(limited[0].headers["retry-after"]) >= 1
    assert limited[0].headers["ratelimit"].startswith('"address";r=0;t=')
    assert limited[0].headers["ratelimit-policy"] == '"address";q=12;w=600'
    assert limited[0].json()["code"] == "rate_limited"
    assert limited[0].json()["retry_after_ms"] > 0
    assert (probes, other) == ([200] * 3, 401)


async def test_104_everybody_is_called_a_few_times_a_minute_and_no_more(server: RunningServer, attach: Attach) -> None:
    room = server.room("ops")
    socket = await attach(server.http_port)
    await socket.authenticate(server.bot("caller", room))
    found = await ask(socket, *[send(room, number, "@all lunch") for number in range(5)], send(room, 9, "nothing more"))

    assert [each.get("code", "") for each in found] == ["", "", "", "rate_limited", "rate_limited", ""]


async def test_104_an_edit_that_begins_to_call_everybody_is_charged_like_a_message(server: RunningServer, attach: Attach) -> None:
    room = server.room("ops")
    socket = await attach(server.http_port)
    await socket.authenticate(server.bot("caller", room))
    (sent,) = await ask(socket, send(room, 0, "hello"))
    found: list[str] = []
    for number, body in enumerate(("@all 0", "@all in other words", "x", "@all 1", "x", "@all 2", "x", "@all 3", "nobody")):
        edit = {"op": "message.edit", "id": f"e{number}", "room": room, "seq": sent["data"]["seq"], "body": body}
        found += [each.get("code", "") for each in await ask(socket, edit)]

    assert found == ["", "", "", "", "", "", "", "rate_limited", ""]


async def test_106_typing_and_reading_all_the_time_is_told_seldom(tmp_path: Path, attach: Attach) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        room = server.room("ops")
        writer_token = server.bot("writer", room)
        writer, second, watcher = [await attach(server.http_port) for _ in range(3)]
        await writer.authenticate(writer_token)
        await second.authenticate(writer_token)
        await watcher.authenticate(server.bot("watcher", room))
        for number in range(5):
            await ask(writer, *[send(room, number * 40 + each) for each in range(40)])
        began = time.monotonic()
        for number in range(10):
            await ask(
                writer,
                *[{"op": "typing.start", "id": "t", "room": room}] * 50,
                *[{"op": "read.mark", "id": "r", "room": room, "seq": number * 20 + each + 1} for each in range(20)],
            )
        await ask(writer, send(room, 999, "the end"))
        took = time.monotonic() - began
        typing = reads = 0
        newest = 0
        async with asyncio.timeout(15):
            while True:
                frames = await watcher.receive()
                typing += sum(each.get("type") == "typing.started" for each in frames)
                if any(each.get("body") == "the end" for each in frames):
                    break
            while newest < 200:
                for each in await second.receive():
                    if each.get("type") == "read.updated":
                        reads += 1
                        newest = each["read_seq"]
    finally:
        server.stop()

    assert typing <= 1 + took / 3
    assert reads <= 3 + took
    assert newest == 200


@pytest.mark.parametrize(
    "query", ["limit=1000000000", "limit=0", "limit=-1", "before=1.5", "before=99999999999999999999", "offset=1000000", "after=-1"]
)
def test_107_a_page_has_a_size_and_no_offset(server: RunningServer, query: str) -> None:
    token = server.set_up()["access_token"]
    room = server.post("/rooms", {"name": "r"}, token)["id"]

    assert server.request("GET", f"/rooms/{room}/entries?{query}", token=token, status=400)["code"] == "invalid_input"


def test_108_hashes_of_a_server_cannot_be_foreseen() -> None:
    """A server as it is started: what a colliding set of names would be differs from start to start."""
    python = Path(SECURECHAT).resolve().parent / "python"
    found = {
        subprocess.run(
            [str(python), "-c", "import securechat, sys; print(sys.hash_info.algorithm[:7], hash('collide'), hash(b'collide'))"],
            capture_output=True, text=True, check=True, env=clean_environment(),
        ).stdout for _ in range(3)
    }  # fmt: skip

    assert len(found) == 3
    assert all(each.startswith("siphash") for each in found)


@pytest.mark.parametrize("query", ["(a+)+$", ".*", "a" * 64 + "(", "[a-z", "((((((((((a*)*)*)*)*)*)*)*)*)*b"])
def test_108_a_search_is_no_pattern(server: RunningServer, query: str) -> None:
    token = server.set_up()["access_token"]
    began = time.perf_counter()
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        answer = http.get(f"{server.url}/api/v1/users", params={"query": query})

    assert (answer.status_code, answer.json()["users"]) == (200, [])
    assert time.perf_counter() - began < 1


def test_109_what_strangers_make_up_makes_no_new_figures(tmp_path: Path) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / "admin.sock"))) as admin:
            before = len(admin.get("http://admin/metrics").text.splitlines())
            with httpx.Client(trust_env=False, base_url=server.url) as http:
                for number in range(1_000):
                    http.get(
                        f"/api/v1/rooms/rm_{number}/entries",
                        headers={"Authorization": f"Bearer sc_bot_{number}", "User-Agent": f"a{number}"},
                    )
            after = len(admin.get("http://admin/metrics").text.splitlines())
    finally:
        server.stop()

    assert after == before


async def test_110_refusals_do_not_fill_the_log(tmp_path: Path, attach: Attach) -> None:
    server = RunningServer(tmp_path / "data").start()
    try:
        socket = await attach(server.http_port)
        await socket.authenticate(server.bot("wrong"))
        before = len(server.log)
        for _ in range(40):
            await ask(socket, *[{"op": "nothing", "id": str(each)} for each in range(50)])
        with httpx.Client(trust_env=False, base_url=server.url) as http:
            for _ in range(200):
                http.post("/api/v1/sessions", content=b"{")
    finally:
        server.stop()

    assert len(server.log) - before < 2_000


async def test_112_who_connects_again_and_again_is_slowed_down(server: RunningServer, attach: Attach) -> None:
    token = server.bot("zombie")
    codes = []
    for _ in range(90):
        socket = await attach(server.http_port)
        await socket.receive()
        socket.write(message({"op": "auth", "id": "a", "token": token}))
        (answer,) = await socket.receive()
        codes.append(answer.get("code", "ready"))
        if answer["op"] == "error":
            assert answer["retry_after_ms"] > 0
            assert await socket.closed() == 4429
        socket.end()

    assert codes[:50] == ["ready"] * 50
    assert codes.count("rate_limited") >= 10


def test_112_and_so_is_an_address(tmp_path: Path) -> None:
    server = running(tmp_path, rates={"connect.address": {"burst": 5, "per_s": 0.1}})
    try:
        found = [talk(server.http_port, upgrade()) for _ in range(8)]
        other = status_of(talk(server.http_port, upgrade(), source="127.0.0.7"))
    finally:
        server.stop()

    assert [status_of(answer) for answer in found] == [101] * 5 + [429] * 3
    assert b"Retry-After: " in found[-1]
    assert other == 101


async def test_a_team_that_comes_back_all_at_once_is_refused_nothing(server: RunningServer, attach: Attach) -> None:
    room = server.room("ops")
    tokens = [server.bot(f"person{number}", room) for number in range(40)]

    async def come(token: str) -> list[str]:
        socket = await attach(server.http_port)
        await socket.authenticate(token)
        start: list[dict[str, Any]] = [
            {"op": "fetch", "id": "f", "room": room},
            {"op": "member.list", "id": "m", "room": room},
        ] * 10
        talk_: list[dict[str, Any]] = [
            {"op": "typing.start", "id": "t", "room": room},
            {"op": "read.mark", "id": "r", "room": room, "seq": 1},
        ] * 5
        found = await ask(socket, *start, *talk_, *[send(room, number) for number in range(10)])
        return [each["code"] for each in found if each["op"] == "error"]

    refused = await asyncio.gather(*(come(token) for token in tokens))

    assert [each for each in refused if each] == []
    assert server.operator().perform(c.ServerStatus()).entries >= 400


MANY = 100_000


@pytest.mark.alone
async def test_105_a_list_of_very_many_members_comes_in_pages_and_others_go_on(server: RunningServer, attach: Attach) -> None:
    room, other = server.room("ops"), server.room("other")
    asker, somebody = server.bot("asker", room), server.bot("somebody", other)
    calm = await attach(server.http_port)
    await calm.authenticate(somebody)
    quiet = await latencies(calm, other, 25, 0)
    server.crowd(room, MANY)
    began = time.perf_counter()
    wild = await attach(server.http_port)
    await wild.authenticate(asker)
    ready_s = time.perf_counter() - began
    found: set[str] = set()
    pages = 0

    async def read_all() -> None:
        nonlocal pages
        cursor: str | None = ""
        while cursor is not None:
            (answer,) = await ask(wild, {"op": "member.list", "id": "m", "room": room, "cursor": cursor})
            if answer["op"] == "error":
                assert answer["code"] == "rate_limited", answer
                await asyncio.sleep(answer["retry_after_ms"] / 1_000)
                continue
            members, cursor = answer["data"]["members"], answer["data"].get("next_cursor")
            assert len(members) <= 1_000
            found.update(each["user"]["id"] for each in members)
            pages += 1

    reading = asyncio.create_task(read_all())
    during = await latencies(calm, other, 25, 100)
    await asyncio.wait_for(reading, 60)
    print(
        f"ready in {ready_s:.3f} s, {pages} pages, p50 {statistics.median(quiet):.4f} -> {statistics.median(during):.4f} s,"
        f" max {max(during):.4f}"
    )

    assert len(found) >= MANY
    assert pages >= 100
    (message_sent,) = await ask(wild, send(room, 1))
    assert message_sent["op"] == "reply"
    assert ready_s < 2, "being a member of a large room makes no slow start"
    assert statistics.median(during) < 5 * statistics.median(quiet) + 0.03, (statistics.median(quiet), statistics.median(during))
