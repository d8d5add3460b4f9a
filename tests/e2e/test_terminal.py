"""The line mode and `securechat login`, through pipes and at a real (pseudo) terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from securechat import ChatClient
from securechat.domain import commands as c
from securechat.sdk.outbox import new_cmid
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment, command_line, wait_until

OTHER_PASSWORD = "another fine password"
END_OF_INPUT = "\x04"


class Person:
    """Somebody with a profile of their own."""

    def __init__(self, server: RunningServer, path: Path, name: str) -> None:
        self.server = server
        self.name = name
        self.profile = path / f"{name}.json"
        self.environment = clean_environment(SECURECHAT_PROFILE=str(self.profile), TERM="dumb")

    def run(self, *arguments: str, stdin: str = "", code: int = 0, bot: dict[str, str] | None = None) -> str:
        found = command_line(*arguments, stdin=stdin, environment=self.environment | (bot or {}))
        assert found.returncode == code, (found.stdout, found.stderr)
        return found.stdout + found.stderr

    def log_in(self, password: str = PASSWORD) -> Person:
        self.run("login", self.server.url, "-u", self.name, stdin=password + "\n")
        return self

    def chat(self, *lines: str, room: str = "", code: int = 0) -> str:
        return self.run("chat", *([room] if room else []), stdin="".join(f"{line}\n" for line in lines), code=code)


class Terminal:
    """A program at a pseudo terminal."""

    def __init__(self, person: Person, *arguments: str) -> None:
        self._own, other = pty.openpty()
        self.process = subprocess.Popen(
            [SECURECHAT, *arguments], stdin=other, stdout=other, stderr=other, env=person.environment, start_new_session=True
        )
        os.close(other)
        self.shown = ""
        self._done = 0

    def expect(self, *words: str) -> None:
        """Wait until all the words are shown, after those that were expected before."""
        deadline = time.monotonic() + 20
        while not all(each in self.shown[self._done :] for each in words):
            ready, _, _ = select.select([self._own], [], [], max(0, deadline - time.monotonic()))
            assert ready, (words, self.shown)
            try:
                self.shown += os.read(self._own, 65_536).decode()
            except OSError as error:
                raise AssertionError((words, self.shown)) from error  # The program has ended.
        self._done = max(self.shown.index(each, self._done) + len(each) for each in words)

    def write(self, text: str) -> None:
        os.write(self._own, f"{text}\n".encode())

    def end(self) -> int:
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._own)


def send(server: RunningServer, room: str, body: str, session: Any) -> int:
    """Send a message and return its `seq`."""
    return int(server.post(f"/rooms/{room}/messages", {"cmid": new_cmid(), "body": body}, session["access_token"])["seq"])


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


def test_the_first_account_is_set_up_from_a_terminal_and_brings_in_the_next(server: RunningServer, tmp_path: Path) -> None:
    ana, bob = Person(server, tmp_path, "ana"), Person(server, tmp_path, "bob")
    link = f"{server.url}/setup#t={server.setup_token}"
    assert "more after a #" in ana.run("login", link.partition("#")[0], "-u", "ana", stdin=PASSWORD + "\n", code=64)
    names = ("--name", "Ana Ruiz", "--server-name", "Our House")
    assert "as @ana" in ana.run("login", "-u", "ana", *names, stdin=f"{link}\n{PASSWORD}\n")
    assert "is set up already" in bob.run("login", link, "-u", "bob", stdin=PASSWORD + "\n", code=2)

    shown = ana.chat("/me", "/create ops", "/invite create 2 1d ops", "/invite list")
    invitation = re.search(r"http://\S+/i/\S+", shown)
    assert invitation
    assert "@ana (Ana Ruiz, owner)" in shown
    assert "2 uses, until" in shown
    shown = bob.run("login", invitation[0], "-u", "bob", stdin=PASSWORD + "\n")
    assert "Ana Ruiz invites you to Our House, into #ops." in shown
    assert "#ops  0 unread  2 members" in bob.chat("/rooms")
    code = invitation[0].rpartition("/")[2].partition("#")[0]
    assert "does not work any more" in ana.chat(f"/invite revoke {code}")
    assert "does not work" in Person(server, tmp_path, "eve").run("login", invitation[0], "-u", "eve", stdin="x\n", code=2)
    assert "[forbidden]" in bob.chat("/invite create")


def test_a_reset_link_sets_a_new_password_and_signs_in(server: RunningServer, tmp_path: Path) -> None:
    user = server.set_up()["user"]
    ana = Person(server, tmp_path, "ana").log_in()
    link = server.operator().perform(c.UserReset(user=user["id"])).url
    other = Person(server, tmp_path, "other")

    assert "The new password holds" in other.run("login", link, "-u", "ana", stdin=OTHER_PASSWORD + "\n")
    assert "@ana" in other.run("whoami")
    ana.run("whoami", code=3)
    assert "[unauthorized]" in ana.run("login", server.url, "-u", "ana", stdin=PASSWORD + "\n", code=3)


def test_a_person_at_a_terminal_is_asked_for_everything(server: RunningServer, tmp_path: Path, terminals: list[Terminal]) -> None:
    ana = Person(server, tmp_path, "ana")
    terminal = Terminal(ana, "login")
    terminals.append(terminal)
    terminal.expect("Server, or a link of it: ")
    terminal.write(f"{server.url}/setup#t={server.setup_token}")
    for question, answer in (
        ("Username: ", "ana"),
        ("Display name [ana]: ", ""),
        ("What people call this server [SecureChat]: ", ""),
        ("New password (8 characters or more): ", "short"),
        ("A password has 8 to 1024 characters.\r\nNew password (8 characters or more): ", PASSWORD),
        ("The same again: ", "something else"),
        ("They differ.\r\nNew password (8 characters or more): ", PASSWORD),
        ("The same again: ", PASSWORD),
    ):
        terminal.expect(question)
        terminal.write(answer)
    terminal.expect("Signed in to", "as @ana")

    assert terminal.end() == 0
    assert PASSWORD not in terminal.shown
    assert "@ana (ana, owner)" in ana.run("whoami")


def test_devices_are_listed_revoked_and_left(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    laptop, phone = Person(server, tmp_path, "ana").log_in(), Person(server, tmp_path, "ana")
    phone.profile = tmp_path / "phone.json"
    phone.environment["SECURECHAT_PROFILE"] = str(phone.profile)
    phone.log_in()
    shown = laptop.chat("/devices")
    others = re.findall(r"^(dev_\S+)  Terminal +seen ", shown, re.MULTILINE)
    (own,) = re.findall(r"^(dev_\S+)  Terminal +this one", shown, re.MULTILINE)
    assert len(others) == 1

    shown = laptop.chat(f"/revoke {own}", "/revoke dev_", "/revoke nothing", f"/revoke {others[0][:8]}")
    for words in ("this is the device you are on", "more than one device", "no such device", "Terminal is signed out"):
        assert words in shown, shown
    phone.run("whoami", code=3)
    assert "Signed out." in laptop.chat("/logout", "never sent")
    assert not laptop.profile.exists()
    assert [name for name in ("ana", "phone") if (tmp_path / f"{name}.json").exists()] == ["phone"]
    token = server.post("/sessions", {"username": "ana", "password": PASSWORD})["access_token"]
    devices = server.request("GET", "/devices", token=token)["devices"]
    assert own not in {each["id"] for each in devices}


def test_logging_out_never_ends_a_bot(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    ana = Person(server, tmp_path, "ana").log_in()
    token = {"SECURECHAT_URL": server.url, "SECURECHAT_TOKEN": server.bot("one")}

    assert "a bot's token" in ana.run("logout", code=64, bot=token)
    assert "a bot's token" in ana.run("chat", stdin="/logout\n", bot=token)
    assert "@one" in ana.run("whoami", bot=token)
    assert ana.profile.exists()


def test_logging_out_forgets_the_session_when_the_server_is_away(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    ana = Person(server, tmp_path, "ana").log_in()
    server.stop()

    assert "The server was not told" in ana.run("logout")
    assert not ana.profile.exists()


def test_bots_are_made_rotated_and_ended_from_the_terminal(server: RunningServer, tmp_path: Path) -> None:
    server.room("ops", server.set_up()["user"]["id"])
    ana = Person(server, tmp_path, "ana").log_in()

    def token(line: str) -> dict[str, str]:
        return dict(re.findall(r"^export (\w+)=(\S+)$", ana.chat(line), re.MULTILINE))

    first = token("/bot create roller ops")
    assert "@roller (roller, bot)" in ana.run("whoami", bot=first)
    second = token("/bot rotate roller")
    ana.run("whoami", code=3, bot=first)
    assert ", 1 room\n" in ana.run("whoami", bot=second)
    assert "cannot connect any more" in ana.chat("/bot revoke roller")
    ana.run("whoami", code=3, bot=second)
    ana.run("whoami", bot=token("/bot rotate @roller"))
    assert "error: write /bot create NAME [ROOM …] or /bot rotate NAME or /bot revoke NAME" in ana.chat("/bot")


def bodies(shown: str) -> list[str]:
    return re.findall(r"^#ops \d+ \d\d:\d\d @\w+: (.*)$", shown, re.MULTILINE)


def test_history_is_read_in_pages_before_after_and_around(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    room = server.room("ops", ana["user"]["id"])
    seqs = [send(server, room, f"m{n}", ana) for n in range(30)]
    person = Person(server, tmp_path, "ana").log_in()

    def shown(line: str) -> list[str]:
        return bodies(person.chat(line))[20:]

    assert shown("/history 3") == ["m27", "m28", "m29"]
    assert shown(f"/history before {seqs[10]} 3") == ["m7", "m8", "m9"]
    assert shown(f"/history after {seqs[10]} 3") == ["m11", "m12", "m13"]
    assert shown(f"/history around {seqs[10]} 4") == ["m8", "m9", "m10", "m11"]
    assert "nothing there" in person.chat(f"/history after {seqs[-1]}")
    for line, words in (
        ("/history before", "write /history before N [COUNT]"),
        ("/history before x", "no number of a message"),
        ("/edit 99999999999999999999 x", "no number of a message"),
        ("/history around 0", "[invalid_input]"),
    ):
        assert words in person.chat(line), line


def test_unread_counts_follow_what_was_shown(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    room = server.room("ops", ana["user"]["id"], bob["user"]["id"])
    server.room("art", ana["user"]["id"])
    last = [send(server, room, f"m{n}", bob) for n in range(3)][-1]
    person = Person(server, tmp_path, "ana").log_in()

    assert "#ops  3 unread  2 members" in person.chat("/rooms", room="art")
    assert "#ops  0 unread" in person.chat("/rooms", room="ops")
    assert "── 2 unread" in person.chat(f"/unread {last - 1}", room="ops")
    assert "#ops  2 unread" in person.chat("/rooms", room="art")


def test_what_is_shown_live_is_read_and_typing_is_shown(server: RunningServer, tmp_path: Path, terminals: list[Terminal]) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    room = server.room("ops", ana["user"]["id"], bob["user"]["id"])
    terminal = Terminal(Person(server, tmp_path, "ana").log_in(), "chat", "ops")
    terminals.append(terminal)
    terminal.expect("── #ops", "@bob joined")
    server.post(f"/rooms/{room}/typing", {}, bob["access_token"])
    terminal.expect("── @bob is typing…")
    send(server, room, "hello ana", bob)
    terminal.expect("@bob: hello ana")

    def unread() -> Any:
        return server.request("GET", f"/rooms/{room}", token=ana["access_token"]).get("unread", 0)

    wait_until(lambda: unread() == 0, "what the terminal showed is read")
    terminal.write("/who")
    terminal.expect("@bob  Bob  member  offline", "@ana  Ana  member  online")
    terminal.write("/quit")
    assert terminal.end() == 0


def test_a_pipe_is_not_disturbed_by_what_is_true_only_for_a_moment(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    room = server.room("ops", ana["user"]["id"], bob["user"]["id"])
    person = Person(server, tmp_path, "ana").log_in()
    with subprocess.Popen(
        [SECURECHAT, "chat", "ops"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=person.environment,
        text=True,
    ) as chat:
        assert chat.stdin is not None
        assert chat.stdout is not None
        for line in chat.stdout:
            if "@bob joined" in line:
                break
        server.post(f"/rooms/{room}/typing", {}, bob["access_token"])
        send(server, room, "hello pipe", bob)
        shown = ""
        while "hello pipe" not in shown:
            shown += chat.stdout.readline()
        chat.stdin.close()
        shown += chat.stdout.read()

    assert chat.returncode == 0
    assert "typing" not in shown


async def test_typing_is_told_to_the_others(server: RunningServer, tmp_path: Path) -> None:
    room = server.room("ops", server.set_up()["user"]["id"])
    person = Person(server, tmp_path, "ana").log_in()
    async with ChatClient(server.url, server.bot("one", room)) as one:
        events = one.events(["typing.started"])
        person.chat("/typing", room="ops")
        signal = await anext(events)

    assert getattr(signal, "room", "") == room


def test_a_session_that_ends_elsewhere_ends_the_chat(server: RunningServer, tmp_path: Path, terminals: list[Terminal]) -> None:
    ana = server.set_up()
    terminal = Terminal(Person(server, tmp_path, "ana").log_in(), "chat")
    terminals.append(terminal)
    terminal.expect("You are in no room yet")
    for device in server.request("GET", "/devices", token=ana["access_token"])["devices"]:
        if device["name"] == "Terminal":
            server.request("DELETE", f"/devices/{device['id']}", token=ana["access_token"])

    terminal.expect("error: The session has ended. Run: ", "securechat login")
    assert terminal.end() == 3


def test_somebody_who_is_blocked_is_folded_away(server: RunningServer, tmp_path: Path) -> None:
    ana = server.set_up()
    bob = server.invite("bob")
    room = server.room("ops", ana["user"]["id"], bob["user"]["id"])
    send(server, room, "read me", bob)
    person = Person(server, tmp_path, "ana").log_in()

    assert "bob: read me" in person.chat("/block bob", "/blocks", room="ops")
    shown = person.chat("/blocks", room="ops")
    assert "read me" not in shown
    assert "@bob: (blocked)" in shown
    assert "@bob  Bob" in shown
    assert "nobody" in person.chat("/unblock bob", "/blocks")


def test_rooms_are_renamed_and_people_found(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    server.invite("bob")
    person = Person(server, tmp_path, "ana").log_in()
    shown = person.chat(
        "/create --public ops", "/topic What runs", "/rename works", "/people b", "/name Ana the First", "/me", "/create --public",
        "/unreact 1", "/leave", "hello?", "/browse",
    )  # fmt: skip
    for words in (
        "@bob  Bob  member",
        "you are Ana the First now",
        "(Ana the First, owner)",
        "error: write /create [--public] NAME",
        "error: write /unreact N EMOJI",
        "error: you are in no room; /join ROOM",
        "#works  0 members  What runs",
    ):
        assert words in shown, (words, shown)


def test_a_name_that_fits_several_rooms_is_refused_everywhere(server: RunningServer, tmp_path: Path) -> None:
    session = server.set_up()
    rooms = [
        server.post("/rooms", {"name": name, "kind": "private"}, session["access_token"])["id"] for name in ("Ops", "OPS", "other")
    ]
    person = Person(server, tmp_path, "ana").log_in()
    shown = person.run("send", "ops", "hi", code=2)
    assert "[ambiguous]" in shown
    assert all(f"{name} ({room}, private)" in shown for name, room in zip(("#Ops", "#OPS"), rooms, strict=False))
    assert rooms[2] not in shown
    person.run("send", "OPS", "to the second")
    person.run("send", rooms[0], "to the first")
    shown = person.chat("/join oPs", "/join Ops", room="other")
    assert f"({rooms[0]}, private)" in shown
    assert "to the first" in shown
    assert "to the second" not in shown
    answer = server.request("GET", "/rooms:lookup?name=ops", token=session["access_token"], status=409)
    assert answer["code"] == "ambiguous"


def test_people_are_found_by_any_word_of_their_names(server: RunningServer, tmp_path: Path) -> None:
    session = server.set_up()
    server.post("/accounts", {
        "code": server.operator().perform(c.InviteCreate()).code, "username": "bob", "password": PASSWORD,
        "display_name": "Bob van der Berg",
    })  # fmt: skip
    person = Person(server, tmp_path, "ana").log_in()
    for words in ("berg", "der BO", "van"):
        assert "@bob  Bob van der Berg  member" in person.chat(f"/people {words}"), words
        found = server.request("GET", f"/users?query={words}", token=session["access_token"])
        assert [user["username"] for user in found["users"]] == ["bob"], words
        assert "Bob van der Berg" in person.run("user", "list", words, "--data", str(server.data))
    assert "nobody" in person.chat("/people erg")
    assert "bob" not in person.run("user", "list", "erg", "--data", str(server.data))


def test_a_slip_of_the_fingers_is_not_published(server: RunningServer, tmp_path: Path) -> None:
    room = server.room("ops", server.set_up()["user"]["id"])
    token = server.bot("roller", room)
    server.request("PUT", "/commands", {"commands": [{"name": "roll"}]}, token)
    shown = Person(server, tmp_path, "ana").log_in().chat("/rol 2", "/roll 2", "//rol 2", room="ops")

    assert "error: there is no /rol here, and nothing was sent. Do you mean /roll?" in shown
    entries = server.operator().perform(c.Fetch(room=room, limit=10)).entries
    assert [entry.body for entry in entries if entry.body] == ["/roll 2", "/rol 2"]


def test_a_line_that_is_too_long_is_refused_and_the_chat_goes_on(server: RunningServer, tmp_path: Path) -> None:
    server.room("ops", server.set_up()["user"]["id"])
    person = Person(server, tmp_path, "ana").log_in()
    shown = person.chat("x" * 20_000, "y" * 100_000, "still here", room="ops")

    assert shown.count("error: not sent") == 2
    assert "still here" in person.chat(room="ops")


def in_ops_without_a_connection(server: RunningServer, tmp_path: Path) -> Terminal:
    """Return the terminal of somebody in #ops, whose server has stopped."""
    ana = Person(server, tmp_path, "ana").log_in()
    ana.chat("/join ops")
    terminal = Terminal(ana, "chat", "ops")
    terminal.expect("#ops")
    terminal.write("/me")
    terminal.expect("@ana (")
    server.stop()
    terminal.expect("connection lost, trying again")
    return terminal


def test_whoever_quits_without_a_connection_is_told_what_is_not_sent(
    server: RunningServer, tmp_path: Path, terminals: list[Terminal]
) -> None:
    server.set_up()
    server.room("ops")
    terminals.append(terminal := in_ops_without_a_connection(server, tmp_path))
    terminal.write("/who")
    terminal.expect("error: not connected")
    terminal.write("hello")
    terminal.write("/quit")
    terminal.expect("1 message is not sent")
    assert terminal.end() == 0


def test_what_waits_when_the_input_ends_is_told_and_sent_when_the_server_is_back(
    server: RunningServer, tmp_path: Path, terminals: list[Terminal]
) -> None:
    server.set_up()
    room = server.room("ops")
    terminals.append(terminal := in_ops_without_a_connection(server, tmp_path))
    terminal.write("hello")
    terminal.write(END_OF_INPUT)
    terminal.expect("1 message is waiting for a connection; Ctrl+C leaves without")
    server.start()
    assert terminal.end() == 0
    assert "hello" in [entry.body for entry in server.operator().perform(c.Fetch(room=room, limit=10)).entries]


def test_a_persons_account_is_no_bot(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    ana = Person(server, tmp_path, "ana").log_in()
    found = subprocess.run(
        [Path(SECURECHAT).with_name("python"), "-c", "from securechat import Bot; Bot().run()"],
        env=ana.environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert found.returncode == 1, found.stderr
    assert "This account is a person's, not a bot's" in found.stderr
    assert "Traceback" not in found.stderr
