"""A-ACL, attacks 58 to 71: what somebody reaches for that is not theirs.

61, removed while a delivery is on its way, is `tests/faults/test_membership.py` and `tests/unit/test_hub.py`; the first half of 64 is
`tests/integration/test_matrix.py`. 68 has no object: rooms cannot be archived.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2 as httpx
import msgspec
import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import Role
from securechat.protocol.frames import COMMANDS, name_of
from support.people import BY_COMMAND, People, Person
from support.running import PASSWORD, RunningServer

ABSENT = "rm_0000000000000000"
ADMINISTRATION = {c.PolicyExplain, c.AuditList, c.StorageShred}
"""Whose room is a filter, or which are nobody's but the operator's: the same answer whatever the room, and not 404."""
ABOUT_A_ROOM = [command for command in COMMANDS if "room" in command.__struct_fields__ and command not in ADMINISTRATION]
FILLED: dict[str, Any] = {
    "body": "x", "seq": 1, "cmid": "x1", "emoji": "👍", "topic": "x", "action": "message.send", "role": "member",
    "url": "https://192.0.2.1/", "subscription": "sub_x",
}  # fmt: skip


@pytest.fixture(scope="module")
def people(shared_server: RunningServer) -> Iterator[People]:
    everybody = People(shared_server)
    yield everybody
    everybody.close()


def kind(people: People, name: str) -> Person:
    return next(each for each in people.everybody if each.kind.name == name)


def private_room(people: People, person: Person) -> str:
    """Create a private room over REST; who creates it owns it."""
    return str(people.server.post("/rooms", {"name": f"r{people.number()}", "kind": "private"}, person.token)["id"])


def filled(command: type[c.Command], room: str, user: str) -> c.Command:
    """Make a command about a room, with something lawful in every field that it needs."""
    needed = {field.name for field in msgspec.structs.fields(command) if field.required}
    return msgspec.convert(
        {"op": name_of(command), "room": room} | {name: user if name == "user" else FILLED[name] for name in needed - {"room"}},
        command,
    )


@pytest.mark.parametrize("command", ABOUT_A_ROOM, ids=name_of)
def test_58_59_a_private_room_and_no_room_at_all_answer_the_same(people: People, command: type[c.Command]) -> None:
    room = private_room(people, people.member)
    people.say(people.member, room, "secret")
    outsider = kind(people, "outsider")
    answers = []
    for target in (room, ABSENT):
        attempt = filled(command, target, people.member.user)
        outsider.heard.clear()
        found = [outsider.by_gateway(attempt), outsider.by_rest(attempt)]
        told = [line.replace(target, "ROOM").partition(' {"type"')[2] for line in outsider.heard[1:]]
        answers.append((found, [line.partition('"request_id"')[0] for line in told]))

    assert answers[0] == answers[1]
    assert answers[0][0] == [(404, "not_found")] * 2


@pytest.mark.alone
def test_58_59_it_takes_as_long_to_find_nothing_as_to_find_what_is_not_theirs(people: People) -> None:
    room, outsider = private_room(people, people.member), kind(people, "outsider")
    took: dict[str, list[float]] = {room: [], ABSENT: []}
    for _ in range(150):
        for target, times in took.items():
            began = time.perf_counter()
            outsider.by_gateway(c.Fetch(room=target))
            times.append(time.perf_counter() - began)
    there, absent = (statistics.median(times) for times in took.values())

    assert abs(there - absent) < 0.0005 + 0.25 * absent, (there, absent)


def test_60_nobody_listens_to_a_room_by_asking_for_what_was_missed(people: People) -> None:
    room = private_room(people, people.member)
    people.say(people.member, room, "canary 60")
    outsider = kind(people, "outsider")
    socket = outsider._open()
    socket.send(msgspec.json.encode([{"op": "auth", "id": "a", "token": outsider.token, "resume": {room: 0, ABSENT: 0}}]).decode())
    ready = next(frame for frame in outsider._frames(socket) if frame["op"] == "ready")
    socket.send(
        msgspec.json.encode(
            [{"op": "resume", "id": "r", "rooms": {room: 0}}, {"op": "resume", "id": "r", "rooms": {room: 0}}]
        ).decode()
    )
    frames = outsider._frames(socket)
    refused = [next(frame for frame in frames if frame.get("id") == "r") for _ in range(2)]
    socket.send(
        msgspec.json.encode([{"op": "resume", "id": "many", "rooms": {f"rm_{number}": 0 for number in range(1_001)}}]).decode()
    )
    many = next(frame for frame in frames if frame.get("id") == "many")
    people.say(people.member, room, "canary 60")
    socket.close()

    assert room not in {each["id"] for each in ready["rooms"]}
    assert [(each["op"], each["status"]) for each in refused] == [("error", 404)] * 2
    assert many["code"] == "invalid_input"
    assert "canary 60" not in outsider.listen()


def test_62_who_was_removed_does_not_touch_their_own_messages_any_more(people: People) -> None:
    former = kind(people, "outsider")
    room = private_room(people, people.member)
    people.perform(c.MemberAdd(room=room, user=former.user))
    seq = people.say(former, room, "mine")
    people.perform(c.MemberRemove(room=room, user=former.user))

    for command in (
        c.MessageEdit(room=room, seq=seq, body="changed"), c.MessageDelete(room=room, seq=seq), c.Fetch(room=room),
        c.ReactionAdd(room=room, seq=seq, emoji="👍"), c.ReactionRemove(room=room, seq=seq, emoji="👍"), c.ReadMark(room=room, seq=seq),
    ):  # fmt: skip
        assert former.by_gateway(command) == former.by_rest(command) == (404, "not_found")


def test_63_who_joins_hears_from_their_own_joining_on_and_may_read_what_was_before(people: People) -> None:
    room = private_room(people, people.member)
    before = people.say(people.member, room, "before")
    person = kind(people, "member")
    person.listen()
    person.heard.clear()
    people.perform(c.MemberAdd(room=room, user=person.user))
    after = people.say(people.member, room, "after")
    events = [
        frame["seq"]
        for message in person.listen().splitlines()
        for frame in msgspec.json.decode(message)
        if frame.get("op") == "event" and frame["room"] == room
    ]

    assert events == [before + 1, after]
    assert person.by_rest(c.Fetch(room=room))[0] == 200
    assert "before" in person.heard[-1]


@pytest.mark.parametrize("field", ["role", "org_id", "owner", "created_at", "verified", "id", "disabled", "username", "user_id"])
def test_65_fields_that_are_the_servers_are_refused(people: People, field: str) -> None:
    person = kind(people, "member")
    room = private_room(people, person)
    for path, body in (("/me", {"display_name": "x"}), (f"/rooms/{room}", {"topic": "x"})):
        answer = person.http.patch(path, json=body | {field: "owner"})
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input"), answer.text


def test_66_rights_do_not_climb(people: People) -> None:
    owner, moderator, bot = kind(people, "owner of the room"), kind(people, "moderator of the room"), kind(people, "bot")
    admin, server_owner = kind(people, "administrator"), kind(people, "owner")
    room = private_room(people, owner)
    for each in (moderator, bot, admin):
        people.perform(c.MemberAdd(room=room, user=each.user))
    assert owner.by_gateway(c.MemberRole(room=room, user=moderator.user, role="moderator")) == (200, "")
    guest = people.new_user()
    refused: list[tuple[Person, c.Command, str]] = [
        (moderator, c.MemberRemove(room=room, user=owner.user), "forbidden"),
        (moderator, c.MemberRole(room=room, user=moderator.user, role="owner"), "forbidden"),
        (moderator, c.MemberRole(room=room, user=bot.user, role="moderator"), "forbidden"),
        (owner, c.MemberRole(room=room, user=bot.user, role="owner"), "forbidden"),
        (owner, c.MemberRole(room=room, user=owner.user, role="member"), "conflict"),
        (owner, c.MemberRemove(room=room, user=admin.user), "forbidden"),
        (bot, c.MemberAdd(room=room, user=guest), "forbidden"),
        (bot, c.UserUpdate(display_name="x\x00"), "invalid_input"),
        (admin, c.UserRole(user=admin.user, role="owner"), "forbidden"),
        (admin, c.UserRole(user=server_owner.user, role="member"), "forbidden"),
        (admin, c.UserRole(user=bot.user, role="admin"), "conflict"),
        (admin, c.UserDisable(user=server_owner.user), "forbidden"),
        (admin, c.UserReset(user=server_owner.user), "forbidden"),
        (admin, c.UserCreate(username="climber", role="owner"), "forbidden"),
        (kind(people, "moderator"), c.UserCreate(username="climber", role="guest"), "forbidden"),
    ]
    for person, command, code in refused:
        assert person.by_gateway(command)[1] == person.by_rest(command)[1] == code, (person.kind.name, command)


def test_66_the_last_owner_of_the_server_stays(server: RunningServer) -> None:
    ana = server.set_up()
    server.request("PUT", f"/admin/users/{ana['user']['id']}/role", {"role": "member"}, ana["access_token"], status=409)
    bob = server.invite("bob")
    server.request("PUT", f"/admin/users/{bob['user']['id']}/role", {"role": "owner"}, ana["access_token"])
    server.request("PUT", f"/admin/users/{ana['user']['id']}/role", {"role": "member"}, ana["access_token"])

    server.request("GET", "/admin/users", token=ana["access_token"], status=403)
    server.request("PUT", f"/admin/users/{bob['user']['id']}/role", {"role": "guest"}, bob["access_token"], status=409)


def test_67_a_direct_room_stays_between_two_and_takes_nothing_from_who_is_blocked(people: People) -> None:
    one, two = kind(people, "member"), people.account(Role.MEMBER, "blocker")
    room = one.http.post("/rooms:direct", json={"user": two.user}).json()["id"]
    seq = people.say(one, room, "hello")
    assert two.by_rest(c.UserBlock(user=one.user))[0] == 200
    blocked = [
        one.by_gateway(c.MessageSend(room=room, cmid="b", body="x")),
        one.by_gateway(c.MessageEdit(room=room, seq=seq, body="x")),
    ]
    group = [
        one.by_rest(command)
        for command in (
            c.MemberAdd(room=room, user=people.newcomer), c.RoomLeave(room=room), c.MessageDelete(room=room, seq=seq),
            c.MemberRemove(room=room, user=two.user), c.RoomUpdate(room=room, topic="x"),
            c.RoomPermit(room=room, action="message.send", role="owner"), c.MemberRole(room=room, user=two.user, role="guest"),
        )
    ]  # fmt: skip
    outside = kind(people, "administrator outside").by_rest(c.Fetch(room=room))
    two.close()

    assert blocked == [(403, "forbidden")] * 2
    assert [status for status, _ in group] == [409, 409, 200, 403, 409, 403, 403]
    assert outside == (404, "not_found")


def all_at_once(work: Callable[[int], Any], count: int = 50) -> list[Any]:
    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(work, range(count)))


def test_69_fifty_at_once_get_what_there_is_once(people: People) -> None:
    server = people.server
    code = people.perform(c.InviteCreate(uses=1)).code

    def post(path: str, body: dict[str, Any], token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(f"{server.url}/api/v1{path}", json=body, headers=headers, timeout=60, trust_env=False).status_code

    joined = all_at_once(lambda number: post("/accounts", {"code": code, "username": f"race{number}", "password": PASSWORD}))
    named = all_at_once(lambda _: post("/rooms", {"name": "the only one", "kind": "public"}, kind(people, "member").token))

    assert (joined.count(201), named.count(201)) == (1, 1)
    assert set(joined) <= {201, 403, 503}
    assert set(named) == {201, 409}


def test_69_there_is_one_first_owner(server: RunningServer) -> None:
    token = server.setup_token

    def set_up(number: int) -> int:
        body = {"token": token, "username": f"first{number}", "password": PASSWORD}
        return httpx.post(f"{server.url}/api/v1/setup", json=body, timeout=60, trust_env=False).status_code

    assert sorted(all_at_once(set_up, 20)) == [201] + [403] * 19
    assert [user.role for user in server.operator().perform(c.UserList()).users] == [Role.OWNER]


def test_70_a_role_that_was_taken_away_is_gone_at_once_on_open_connections_and_no_answer_is_kept(people: People) -> None:
    admin = people.account(Role.ADMIN, "formeradmin")
    room = private_room(people, people.member)
    people.perform(c.MemberAdd(room=room, user=admin.user))
    assert admin.by_gateway(c.UserList()) == admin.by_rest(c.UserList()) == (200, "")
    seq = people.say(people.member, room, "x")
    people.perform(c.UserRole(user=admin.user, role="guest"))

    assert admin.by_gateway(c.UserList()) == admin.by_rest(c.UserList()) == (403, "forbidden")
    assert admin.by_gateway(c.MessageDelete(room=room, seq=seq)) == (403, "forbidden")
    assert all("no-store" in each for each in admin.heard if each.startswith("Headers"))
    assert '"role":"guest"' in admin.listen()
    assert people.member.by_rest(c.RoomPermit(room=room, action="message.send", role="member"))[0] == 200
    assert admin.by_gateway(c.MessageSend(room=room, cmid="late", body="x")) == (403, "forbidden")
    admin.close()


def test_71_what_is_for_the_operator_is_not_at_the_public_door(people: People) -> None:
    paths = ["/metrics", "/command", "/debug", "/admin", "/admin.sock", "/api/v1/admin/backup", "/api/v1/command", "/server-status"]
    tokens = ["", kind(people, "owner").token]
    with httpx.Client(trust_env=False, base_url=people.server.url) as http:
        for path in paths:
            for token in tokens:
                for method in ("GET", "POST"):
                    answer = http.request(method, path, headers={"Authorization": f"Bearer {token}"} if token else {})
                    page = answer.headers["content-type"].startswith("text/html") and "securechat_" not in answer.text
                    assert answer.status_code in {404, 405} or page, (method, path, answer.status_code)
    routes = {BY_COMMAND[command].path for command in COMMANDS if command in BY_COMMAND}
    assert not {command for command in (c.BackupCreate, c.ServerStatus, c.SetupLink) if command in BY_COMMAND}, routes


def test_a_guest_knows_whom_they_are_in_a_room_with_and_nobody_else(people: People) -> None:
    guest = kind(people, "guest")
    known = people.account(Role.MEMBER, "wellknown")
    room = private_room(people, known)
    people.perform(c.MemberAdd(room=room, user=guest.user))
    found = [each["username"] for each in guest.http.get("/users", params={"limit": 100}).json()["users"]]
    got = guest.http.post("/users:get", json={"users": [known.user, people.newcomer]}).json()["users"]
    hidden = guest.by_rest(c.RoomDirect(user=people.newcomer))
    known.close()

    assert {"wellknown", guest.username} <= set(found)
    assert "founder" not in found
    assert [each["id"] for each in got] == [known.user]
    assert hidden == (404, "not_found")
    assert guest.by_rest(c.RoomDirect(user=known.user))[0] == 200


def test_a_room_decides_who_posts_invites_and_calls_everybody(people: People) -> None:
    owner, member = kind(people, "owner of the room"), kind(people, "member")
    room = private_room(people, owner)
    people.perform(c.MemberAdd(room=room, user=member.user))
    attempts: dict[str, Callable[[], c.Command]] = {
        "message.send": lambda: c.MessageSend(room=room, cmid=f"p{people.number()}", body="hello"),
        "message.mention_all": lambda: c.MessageSend(room=room, cmid=f"p{people.number()}", body="hello @everyone!"),
        "member.add": lambda: c.MemberAdd(room=room, user=people.newcomer),
        "room.topic": lambda: c.RoomUpdate(room=room, topic=f"topic {people.number()}"),
        "message.delete_any": lambda: c.MessageDelete(room=room, seq=people.say(owner, room, "x")),
    }
    for action, attempt in attempts.items():
        assert owner.by_gateway(c.RoomPermit(room=room, action=action, role="moderator")) == (200, "")
        assert member.by_gateway(attempt()) == (403, "forbidden"), action
        assert "set in this room" in member.http.get("/policy", params={"action": action, "room": room}).json()["rule"]
        assert owner.by_gateway(c.RoomPermit(room=room, action=action, role="member")) == (200, "")
        assert member.by_gateway(attempt()) == (200, ""), action
        assert owner.by_gateway(c.RoomPermit(room=room, action=action)) == (200, "")
    assert owner.by_gateway(c.RoomPermit(room=room, action="fetch", role="guest"))[1] == "invalid_input"
    assert member.by_gateway(c.RoomPermit(room=room, action="message.send", role="guest"))[1] == "forbidden"
