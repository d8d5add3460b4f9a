"""Subscriptions on a real server: made, told, delivered, killed, replayed; through REST, the SDK and the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from securechat.domain import commands as c
from support.ports import free_port
from support.receiver import Receiver
from support.running import RunningServer, clean_environment, command_line, wait_until

ROOT = Path(__file__).parents[2]
ALLOWED = {"hooks_allow_networks": ["127.0.0.1"]}


@pytest.fixture
def hooked(tmp_path: Path) -> Iterator[RunningServer]:
    """A server that may send to this machine."""
    found = RunningServer(tmp_path / "data", "--log-level", "TRACE", settings=ALLOWED).start()
    yield found
    found.stop()


def say(server: RunningServer, room: str, token: str, *texts: str) -> list[int]:
    return [server.post(f"/rooms/{room}/messages", {"cmid": text.replace(" ", "-"), "body": text}, token)["seq"] for text in texts]


def subscribe(server: RunningServer, room: str, token: str, receiver: Receiver, *types: str) -> str:
    made = server.post(f"/rooms/{room}/subscriptions", {"url": receiver.url, "types": list(types)}, token)
    receiver.secrets.append(made["secret"])
    return str(made["subscription"]["id"])


def cli(server: RunningServer, *words: str, status: int = 0) -> str:
    environment = clean_environment(SECURECHAT_DATA_DIR=str(server.data), COLUMNS="250")
    found = command_line(*words, environment=environment)
    assert found.returncode == status, found.stderr
    return found.stdout


def metric(server: RunningServer, name: str) -> float:
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(server.data / "admin.sock")), timeout=10) as http:
        text = http.get("http://admin/metrics").text
    return float(next(line for line in text.splitlines() if line.startswith(f"securechat_{name} ")).split()[-1])


def test_a_subscription_from_its_making_to_its_end(hooked: RunningServer, receiver: Receiver) -> None:
    ana = hooked.set_up()
    token, room = ana["access_token"], hooked.room("ops", ana["user"]["id"])
    hooked.operator().perform(c.MemberRole(room=room, user=ana["user"]["id"], role="owner"))
    say(hooked, room, token, "before")
    name = subscribe(hooked, room, token, receiver, "message.sent", "room.updated")
    say(hooked, room, token, "one", "two")
    receiver.wait(2)
    assert receiver.texts == ["one", "two"], "nothing of before"

    page = hooked.request("GET", f"/rooms/{room}/entries", token=token)["entries"]
    told = [entry for entry in page if "subscribed" in entry]
    assert [(entry["type"], entry["subscribed"], entry["user"]) for entry in told] == [
        ("room.updated", "127.0.0.1", ana["user"]["id"])
    ]
    assert "of-the-target" not in json.dumps(page), "the room hears the host, and not the URL"

    # One is refused, and becomes a dead letter; the other one goes out.
    receiver.answer = lambda event: 422 if event.data.get("body") == "bad" else 204
    (bad, _) = say(hooked, room, token, "bad", "good")
    receiver.wait(3)
    path = f"/rooms/{room}/subscriptions/{name}"
    wait_until(lambda: hooked.request("GET", f"{path}/dead-letters", token=token)["letters"], "a dead letter")
    (letter,) = hooked.request("GET", f"{path}/dead-letters", token=token)["letters"]
    assert (letter["seq"], letter["status"], letter["attempts"], letter["waiting"]) == (bad, 422, 1, False)
    listed = cli(hooked, "dead-letters", "list", name)
    assert str(bad) in listed
    assert "the target refused it with 422" in listed
    wait_until(lambda: metric(hooked, "webhook_dead_letters") == 1, "the gauge")
    assert metric(hooked, "webhook_subscriptions") == 1
    assert metric(hooked, 'webhook_deliveries_total{result="ok"}') >= 3
    assert metric(hooked, 'webhook_deliveries_total{result="dead"}') == 1
    listed = cli(hooked, "subscription", "list", "ops")
    assert name in listed
    assert "active" in listed

    receiver.answer = lambda _event: 200
    assert "1 sent again" in cli(hooked, "dead-letters", "replay", name, "--seq", str(bad))
    receiver.wait(4)
    assert receiver.events[-1].data["body"] == "bad"
    wait_until(lambda: not hooked.request("GET", f"{path}/dead-letters", token=token)["letters"], "no dead letter")
    cli(hooked, "dead-letters", "drop", name, status=64)
    assert hooked.post(f"{path}/dead-letters:drop", {"seq": bad}, token, status=404)["code"] == "not_found"

    # Paused, changed, ended.
    cli(hooked, "subscription", "pause", name)
    say(hooked, room, token, "later")
    assert hooked.post(f"{path}/pause", {}, token, status=409)["code"] == "conflict"
    rotated = hooked.post(f"{path}/rotate", {"keep_hours": 0}, token)
    receiver.secrets.append(rotated["secret"])
    cli(hooked, "subscription", "resume", name)
    # What was on its way while it was paused may come twice: at least once is what is promised.
    wait_until(lambda: receiver.events[-1].data["body"] == "later", "what was said meanwhile")
    hooked.request("DELETE", path, token=token)
    say(hooked, room, token, "unheard")
    page = hooked.request("GET", f"/rooms/{room}/entries", token=token)["entries"]
    assert [entry["unsubscribed"] for entry in page if "unsubscribed" in entry] == ["127.0.0.1"]
    assert hooked.request("GET", f"/rooms/{room}/subscriptions", token=token)["subscriptions"] == []
    assert len({event.id for event in receiver.events}) == 5
    assert "unheard" not in receiver.texts

    audit = cli(hooked, "audit", "list", "--json")
    for action in ("subscription.create", "subscription.delete", "subscription.pause", "subscription.rotate", "dead.letter.replay"):
        assert f'"{action}"' in audit, action
    for secret in (*receiver.secrets, "of-the-target"):
        assert secret not in audit
        assert secret not in hooked.log


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1/x", "hooks_allow_networks"), ("https://169.254.169.254/", "hooks_allow_networks"),
        ("ftp://x.example/", "https"), ("https://a:b@x.example/", "password"),
    ],
)  # fmt: skip
def test_what_nothing_may_be_sent_to_is_refused_when_it_is_made_and_the_room_hears_nothing(
    shared_server: RunningServer, url: str, words: str
) -> None:
    room = shared_server.room(f"r{free_port()}")
    found = cli(shared_server, "subscription", "create", room, url, status=2)
    assert found == ""
    with pytest.raises(Exception, match=words):
        shared_server.operator().perform(c.SubscriptionCreate(room=room, url=url))
    assert shared_server.operator().perform(c.SubscriptionList(room=room)).subscriptions == []
    page = shared_server.operator().perform(c.Fetch(room=room))
    assert all(entry.subscribed is None for entry in page.entries)


def test_a_direct_room_has_none(shared_server: RunningServer) -> None:
    ana = shared_server.set_up()
    bob = shared_server.invite("bob")
    room = shared_server.post("/rooms:direct", {"user": bob["user"]["id"]}, ana["access_token"])["id"]
    body = {"url": "https://x.example/"}
    assert shared_server.post(f"/rooms/{room}/subscriptions", body, ana["access_token"], status=403)
    with pytest.raises(Exception, match="direct room"):
        shared_server.operator().perform(c.SubscriptionCreate(room=room, url="https://x.example/"))


def test_a_server_that_is_killed_again_and_again_delivers_everything(hooked: RunningServer, receiver: Receiver) -> None:
    ana = hooked.set_up()
    room = hooked.room("ops", ana["user"]["id"])
    made = hooked.operator().perform(c.SubscriptionCreate(room=room, url=receiver.url, types=["message.sent"]))
    receiver.secrets.append(made.secret)
    sent: list[str] = []
    for kill in range(3):
        texts = [f"{kill}-{number}" for number in range(12)]
        say(hooked, room, ana["access_token"], *texts)
        sent += texts
        receiver.wait(len(set(receiver.texts)) + 1)
        hooked.stop(signal.SIGKILL)
        hooked.start()
    wait_until(lambda: sent[-1] in receiver.texts, "everything")
    assert list(dict.fromkeys(receiver.texts)) == sent, "all of it, in order"
    assert len({event.id for event in receiver.events}) == len(sent), "a double has the webhook-id of the first"
    began = os.times().elapsed
    hooked.stop()
    assert os.times().elapsed - began < 4, "a drain is not held up"
    print(f"{len(receiver.events) - len(sent)} doubles of {len(sent)} in 3 kills")


def test_the_receiver_of_the_page_verifies_what_the_server_sends(hooked: RunningServer, tmp_path: Path) -> None:
    ana = hooked.set_up()
    room = hooked.room("ops", ana["user"]["id"])
    port = free_port()
    made: Any = hooked.operator().perform(c.SubscriptionCreate(room=room, url=f"http://127.0.0.1:{port}/"))
    environment = clean_environment(WEBHOOK_SECRET=made.secret, PORT=str(port))
    program = subprocess.Popen(
        [sys.executable, "-u", ROOT / "examples/receiver.py"], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert "listening" in program.stdout.readline()
        assert httpx.post(f"http://127.0.0.1:{port}/", content=b"{}", trust_env=False).status_code == 401
        say(hooked, room, ana["access_token"], "hello receiver")
        assert program.stdout.readline() == f"{ana['user']['id']}: hello receiver\n"
    finally:
        program.terminate()
        program.wait(10)
        if program.stdout is not None:
            program.stdout.close()


def test_the_sdk_gives_the_helper_away_without_more_words() -> None:
    program = "import securechat; assert securechat.webhooks.verify; import sys; assert 'apsw' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
