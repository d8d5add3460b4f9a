"""A-RPL, attacks 74 and 75, at the doors: the same request again, and the same `cmid` of others."""

from __future__ import annotations

import httpx2 as httpx

from support.running import PASSWORD, RunningServer


def bodies(server: RunningServer, room: str, token: str) -> list[str]:
    found = server.request("GET", f"/rooms/{room}/entries", token=token)["entries"]
    return [each["body"] for each in found if each["type"] == "message.sent"]


def test_074_a_recorded_request_has_one_effect_and_the_same_answer(server: RunningServer) -> None:
    ana = server.set_up()
    room, token = server.room("ops", ana["user"]["id"]), ana["access_token"]
    url, headers = f"{server.url}/api/v1/rooms/{room}/messages", {"Authorization": f"Bearer {token}", "Idempotency-Key": "k-1"}
    with httpx.Client(trust_env=False) as http:
        answers = [http.post(url, headers=headers, json={"body": "once"}) for _ in range(3)]
        other = http.post(url, headers=headers, json={"body": "something else"})

    assert [each.status_code for each in answers] == [201, 201, 201]
    assert answers[0].json() == answers[1].json() == answers[2].json()
    assert (other.status_code, other.json()["code"]) == (409, "cmid_conflict")
    assert bodies(server, room, token) == ["once"]


def test_075_a_cmid_is_of_one_device_and_has_a_size(server: RunningServer) -> None:
    ana, bob = server.set_up(), server.invite("bob")
    room = server.room("ops", ana["user"]["id"], bob["user"]["id"])
    laptop = server.post("/sessions", {"username": "ana", "password": PASSWORD})
    sent = [
        server.post(f"/rooms/{room}/messages", {"cmid": "same", "body": body}, token["access_token"])["seq"]
        for body, token in (("of ana", ana), ("of bob", bob), ("of her laptop", laptop))
    ]

    assert len(set(sent)) == 3
    assert bodies(server, room, ana["access_token"]) == ["of ana", "of bob", "of her laptop"]
    for cmid in ("x" * 65, "x" * 60_000, "", "with\u0000nul", "é"):
        refused = server.post(f"/rooms/{room}/messages", {"cmid": cmid, "body": "x"}, ana["access_token"], status=400)
        assert refused["field"] == "cmid"
