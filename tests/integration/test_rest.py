"""REST over a real server: people, rooms, messages, refusals."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from openapi_spec_validator import validate

from securechat.domain import commands as c
from support.running import PASSWORD, RunningServer, wait_until


@pytest.fixture(scope="module")
def ana(shared_server: RunningServer) -> Any:
    return shared_server.set_up()


@pytest.fixture(scope="module")
def room(shared_server: RunningServer, ana: Any) -> str:
    return shared_server.room("ops", ana["user"]["id"])


def test_the_setup_link_works_once(shared_server: RunningServer, ana: Any) -> None:
    body = {"token": shared_server.setup_token, "username": "eve", "password": PASSWORD}

    assert ana["user"]["role"] == "owner"
    refused = shared_server.post("/setup", body, status=403)
    assert refused["code"] == "link_invalid"
    assert "is set up already" in refused["detail"]


def test_strangers_do_not_register(shared_server: RunningServer, ana: Any) -> None:
    body = {"username": "eve", "password": PASSWORD}

    assert shared_server.post("/accounts", body, status=403)["code"] == "registration_closed"
    assert shared_server.post("/accounts", body | {"code": "AAAA-BBBB-CCCC"}, status=403)["code"] == "link_invalid"


def test_an_invitation_has_uses_and_brings_into_rooms(shared_server: RunningServer, ana: Any, room: str) -> None:
    code = shared_server.operator().perform(c.InviteCreate(uses=1, rooms=[room])).code
    taken = {"code": code, "username": "ana", "password": PASSWORD}

    assert shared_server.request("GET", f"/invites/{code}")["rooms"] == ["ops"]
    assert shared_server.post("/accounts", taken, status=409)["code"] == "name_taken"
    session = shared_server.post("/accounts", taken | {"username": "guest1"})
    rooms = shared_server.request("GET", "/rooms", token=session["access_token"])["rooms"]
    assert [each["name"] for each in rooms] == ["ops"]
    assert shared_server.post("/accounts", taken | {"username": "guest2"}, status=403)["code"] == "link_invalid"


def test_a_reply_is_to_a_message_and_to_nothing_else(shared_server: RunningServer, ana: Any, room: str) -> None:
    path, token = f"/rooms/{room}/messages", ana["access_token"]
    first = shared_server.post(path, {"cmid": "one", "body": "a question"}, token=token)
    answer = shared_server.post(path, {"cmid": "two", "body": "an answer", "reply_to": first["seq"]}, token=token)
    shared_server.request("DELETE", f"{path}/{first['seq']}", token=token)
    late = shared_server.post(path, {"cmid": "three", "body": "another one", "reply_to": first["seq"]}, token=token)
    assert first["seq"] < answer["seq"] < late["seq"]
    for wrong in (1, late["seq"] + 1, late["seq"] + 1_000):  # 1 is how the room began.
        refused = shared_server.post(path, {"cmid": f"to-{wrong}", "body": "x", "reply_to": wrong}, token=token, status=400)
        assert (refused["code"], refused["field"]) == ("invalid_input", "reply_to")


def test_wrong_user_and_wrong_password_answer_the_same(shared_server: RunningServer, ana: Any) -> None:
    wrong = shared_server.post("/sessions", {"username": "ana", "password": "not the password"}, status=401)
    unknown = shared_server.post("/sessions", {"username": "nobody", "password": "not the password"}, status=401)

    assert {**wrong, "request_id": ""} == {**unknown, "request_id": ""}


def test_refresh_tokens_rotate_and_a_stolen_one_ends_the_session(shared_server: RunningServer, ana: Any) -> None:
    first = shared_server.post("/sessions", {"username": "ana", "password": PASSWORD})
    second = shared_server.post("/sessions/refresh", {"refresh_token": first["refresh_token"]})

    assert second["device"] == first["device"]
    assert second["refresh_token"] != first["refresh_token"]
    third = shared_server.post("/sessions/refresh", {"refresh_token": second["refresh_token"]})
    assert shared_server.request("GET", "/me", token=third["access_token"])["user"]["username"] == "ana"
    shared_server.post("/sessions/refresh", {"refresh_token": first["refresh_token"]}, status=401)
    shared_server.request("GET", "/me", token=third["access_token"], status=401)


def test_logging_out_ends_the_token_at_once(shared_server: RunningServer, ana: Any) -> None:
    session = shared_server.post("/sessions", {"username": "ana", "password": PASSWORD, "device_name": "Phone"})
    token = session["access_token"]
    names = [device["name"] for device in shared_server.request("GET", "/devices", token=token)["devices"]]

    assert "Phone" in names
    shared_server.request("DELETE", "/sessions/current", token=token)
    shared_server.request("GET", "/me", token=token, status=401)
    shared_server.post("/sessions/refresh", {"refresh_token": session["refresh_token"]}, status=401)


def test_a_device_of_ones_own_can_be_signed_out_and_no_other(shared_server: RunningServer, ana: Any) -> None:
    phone = shared_server.post("/sessions", {"username": "ana", "password": PASSWORD})
    bob = shared_server.invite("bob-devices")

    shared_server.request("DELETE", f"/devices/{phone['device']}", token=bob["access_token"], status=404)
    shared_server.request("DELETE", f"/devices/{phone['device']}", token=ana["access_token"])
    shared_server.request("GET", "/me", token=phone["access_token"], status=401)


def test_a_reset_link_sets_the_password_once_and_ends_all_sessions(shared_server: RunningServer) -> None:
    session = shared_server.invite("forgetful")
    user = shared_server.operator().user("forgetful")
    token = shared_server.operator().perform(c.UserReset(user=user.id)).url.partition("t=")[2]
    shared_server.post("/password-reset", {"token": token, "password": "another horse"})

    shared_server.request("GET", "/me", token=session["access_token"], status=401)
    shared_server.post("/password-reset", {"token": token, "password": "third horse"}, status=403)
    shared_server.post("/sessions", {"username": "forgetful", "password": PASSWORD}, status=401)
    shared_server.post("/sessions", {"username": "forgetful", "password": "another horse"})


def test_the_life_of_a_message(shared_server: RunningServer, ana: Any, room: str) -> None:
    token, path = ana["access_token"], f"/rooms/{room}/messages"
    sent = shared_server.post(path, {"cmid": "m1", "body": "hello"}, token)
    assert shared_server.post(path, {"cmid": "m1", "body": "hello"}, token) == sent
    assert shared_server.post(path, {"cmid": "m1", "body": "other"}, token, status=409)["code"] == "cmid_conflict"
    seq = sent["seq"]
    shared_server.request("PATCH", f"{path}/{seq}", {"body": "hello all"}, token)
    shared_server.request("PUT", f"{path}/{seq}/reactions/👍", {}, token)
    around = shared_server.request("GET", f"/rooms/{room}/entries?around={seq}&limit=3", token=token)
    message = next(entry for entry in around["entries"] if entry["seq"] == seq)

    assert (message["body"], message["edited"]["body"], message["reactions"]) == ("hello", "hello all", {"👍": [ana["user"]["id"]]})
    shared_server.request("DELETE", f"{path}/{seq}", token=token)
    after = shared_server.request("GET", f"/rooms/{room}/entries?after={seq - 1}", token=token)
    assert [entry["type"] for entry in after["entries"]] == ["message.sent", "message.edited", "reaction.added", "message.deleted"]
    assert not any("body" in entry for entry in after["entries"])
    assert shared_server.request("PATCH", f"{path}/{seq}", {"body": "again"}, token, status=409)["code"] == "conflict"


def test_deleted_text_is_gone_from_the_files_while_the_server_runs(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    room = server.post("/rooms", {"name": "ops"}, token)["id"]
    path = f"/rooms/{room}/messages"
    seqs = [server.post(path, {"cmid": str(n), "body": f"CANARY-{n} " * 50}, token)["seq"] for n in range(5)]
    server.request("PATCH", f"{path}/{seqs[0]}", {"body": "CANARY-edited"}, token)

    def on_disk() -> bool:
        return any(b"CANARY" in found.read_bytes() for found in server.data.rglob("*") if found.is_file())

    assert on_disk()
    for seq in seqs:
        server.request("DELETE", f"{path}/{seq}", token=token)
    wait_until(lambda: not on_disk(), "the text is gone")


@pytest.mark.alone
def test_the_server_is_ready_within_three_seconds(tmp_path: Path) -> None:
    running = RunningServer(tmp_path / "data")
    started = time.monotonic()
    running.start()
    took = time.monotonic() - started
    running.stop()

    assert took < 3


def test_an_idempotency_key_is_the_cmid(shared_server: RunningServer, ana: Any, room: str) -> None:
    headers = {"Authorization": f"Bearer {ana['access_token']}", "Idempotency-Key": "key-1"}
    url = f"{shared_server.url}/api/v1/rooms/{room}/messages"
    with httpx.Client(trust_env=False) as http:
        first, second = (http.post(url, json={"body": "once"}, headers=headers) for _ in range(2))

    assert first.status_code == 201
    assert first.json() == second.json()


def test_outsiders_see_nothing_of_a_private_room(shared_server: RunningServer, ana: Any) -> None:
    token = ana["access_token"]
    private = shared_server.post("/rooms", {"name": "secret", "kind": "private"}, token)["id"]
    eve = shared_server.invite("eve")["access_token"]
    missing = "rm_0000000000000000"
    for method, path, body in [
        ("GET", "/rooms/{}", None),
        ("GET", "/rooms/{}/entries", None),
        ("GET", "/rooms/{}/members", None),
        ("GET", "/rooms/{}/commands", None),
        ("POST", "/rooms/{}/join", {}),
        ("POST", "/rooms/{}/leave", {}),
        ("POST", "/rooms/{}/typing", {}),
        ("POST", "/rooms/{}/messages", {"cmid": "x", "body": "x"}),
        ("PATCH", "/rooms/{}", {"name": "mine"}),
        ("PUT", "/rooms/{}/read", {"seq": 1}),
    ]:
        hidden = shared_server.request(method, path.format(private), body, eve, status=404)
        absent = shared_server.request(method, path.format(missing), body, eve, status=404)
        assert hidden["detail"].replace(private, missing) == absent["detail"]
    assert shared_server.request("GET", "/rooms:browse?query=sec", token=eve)["rooms"] == []
    shared_server.request("GET", "/rooms:lookup?name=secret", token=eve, status=404)


def test_a_blocked_person_cannot_write_directly(shared_server: RunningServer, ana: Any) -> None:
    bob, token = shared_server.invite("bob-blocked"), ana["access_token"]
    room = shared_server.post("/rooms:direct", {"user": ana["user"]["id"]}, bob["access_token"])["id"]
    path = f"/rooms/{room}/messages"
    shared_server.post(path, {"cmid": "1", "body": "hi"}, bob["access_token"])
    shared_server.request("PUT", f"/blocks/{bob['user']['id']}", {}, token)

    shared_server.post(path, {"cmid": "2", "body": "hi"}, bob["access_token"], status=403)
    shared_server.post("/rooms:direct", {"user": ana["user"]["id"]}, bob["access_token"], status=403)
    shared_server.request("DELETE", f"/blocks/{bob['user']['id']}", token=token)
    shared_server.post(path, {"cmid": "3", "body": "hi"}, bob["access_token"])


def test_members_do_not_administer(shared_server: RunningServer) -> None:
    token = shared_server.invite("plain")["access_token"]

    for method, path, body in [
        ("GET", "/admin/users", None),
        ("POST", "/admin/invites", {}),
        ("POST", "/admin/bots", {"username": "xx"}),
    ]:
        shared_server.request(method, path, body, token, status=403)


def test_a_locked_account_is_out_at_once(shared_server: RunningServer) -> None:
    session = shared_server.invite("leaving")
    operator = shared_server.operator()
    operator.perform(c.UserDisable(user=session["user"]["id"]))

    shared_server.request("GET", "/me", token=session["access_token"], status=401)
    shared_server.post("/sessions", {"username": "leaving", "password": PASSWORD}, status=401)
    operator.perform(c.UserEnable(user=session["user"]["id"]))
    shared_server.post("/sessions", {"username": "leaving", "password": PASSWORD})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("POST", "/sessions", {"username": "ana"}, 400, "invalid_input"),
        ("POST", "/sessions", {"username": "ana", "password": "x" * 3_000}, 400, "invalid_input"),
        ("POST", "/sessions", {"username": {"$ne": ""}, "password": "x"}, 400, "invalid_input"),
        ("POST", "/sessions", {"username": "ana", "password": "xxxxxxxx", "admin": True}, 400, "invalid_input"),
        ("GET", "/rooms/x/entries?limit=9999", None, 400, "invalid_input"),
        ("GET", "/rooms/x/entries?limit=5&limit=6", None, 400, "invalid_input"),
        ("GET", "/nowhere", None, 404, "not_found"),
        ("DELETE", "/setup", None, 405, "invalid_input"),
    ],
)
def test_every_refusal_is_a_problem_with_a_code(
    shared_server: RunningServer, ana: Any, method: str, path: str, body: Any, status: int, code: str
) -> None:
    with httpx.Client(trust_env=False) as http:
        answer = http.request(
            method, f"{shared_server.url}/api/v1{path}", json=body, headers={"Authorization": f"Bearer {ana['access_token']}"}
        )

    assert (answer.status_code, answer.json()["code"], answer.json()["status"]) == (status, code, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    assert answer.headers["cache-control"] == "no-store, private"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {"content-type": "application/json"}, 400),
        (b"[]", {"content-type": "application/json"}, 400),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 400),
        (b"{}", {"content-type": "application/json", "content-encoding": "gzip"}, 415),
        (b"[" * 50_000, {"content-type": "application/json"}, 400),
        (b'{"a":"' + b"x" * 200_000 + b'"}', {"content-type": "application/json"}, 413),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(
    shared_server: RunningServer, content: bytes, headers: dict[str, str], status: int
) -> None:
    with httpx.Client(trust_env=False) as http:
        answer = http.post(f"{shared_server.url}/api/v1/sessions", content=content, headers=headers)

    assert answer.status_code == status


def test_limits_are_told_in_headers_and_in_the_refusal(server: RunningServer) -> None:
    session = server.set_up()
    server.config.write_text(json.dumps({"rates": {"message": {"burst": 2, "per_s": 0.5}}}))
    server.stop()
    server.start()
    token = server.post("/sessions", {"username": "ana", "password": PASSWORD})["access_token"]
    room = server.room("ops", session["user"]["id"])
    with httpx.Client(trust_env=False, headers={"Authorization": f"Bearer {token}"}) as http:
        answers = [http.post(f"{server.url}/api/v1/rooms/{room}/messages", json={"cmid": str(n), "body": "x"}) for n in range(3)]

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert answers[0].headers["ratelimit-policy"].startswith('"message";q=2;w=4, "address";')
    assert answers[1].headers["ratelimit"].startswith('"message";r=0;t=4, ')
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].json()["retry_after_ms"] > 0


def test_the_browsers_refresh_token_stays_in_a_cookie_that_scripts_cannot_read(shared_server: RunningServer, ana: Any) -> None:
    body, header = {"username": "ana", "password": PASSWORD}, {"X-SecureChat-Session": "cookie"}
    with httpx.Client(trust_env=False, base_url=f"{shared_server.url}/api/v1") as http:
        answer = http.post("/sessions", json=body, headers=header)
        cookie = answer.headers["set-cookie"]

        assert answer.json()["refresh_token"] == ""
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert http.post("/sessions/refresh", json={"refresh_token": ""}).status_code == 401
        assert (
            http.post(
                "/sessions/refresh", json={"refresh_token": ""}, headers=header | {"Origin": "https://evil.example"}
            ).status_code
            == 403
        )
        assert http.post("/sessions/refresh", json={"refresh_token": ""}, headers=header).status_code == 200


def test_the_openapi_document_is_valid_and_served(shared_server: RunningServer) -> None:
    with httpx.Client(trust_env=False) as http:
        document = http.get(f"{shared_server.url}/api/openapi.json").json()
        page = http.get(f"{shared_server.url}/api/docs")

    validate(document)
    assert page.status_code == 200
    for operations in document["paths"].values():
        for operation in operations.values():
            assert f'id="{operation["operationId"]}"' in page.text


def test_operators_commands_have_no_public_path(shared_server: RunningServer, ana: Any) -> None:
    with httpx.Client(trust_env=False) as http:
        for path in ("/metrics", "/command"):
            assert http.post(shared_server.url + path).status_code in {404, 405}
