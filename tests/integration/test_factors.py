"""Second factors over a real server: setting up, logging in, the policy, passkeys honest and not."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pyotp
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from securechat import ChatClient
from securechat.auth.totp import STEP_S
from securechat.domain import commands as c
from securechat.domain.ports import PasskeyRecord
from securechat.domain.secret import Secret
from securechat.errors import Conflict, Forbidden, NotFound, SecondFactorRequired, Unauthorized
from securechat.sdk.errors import LoginRequired
from support.authenticator import Authenticator
from support.identity import HERE, URL, Identity
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment, command_line, wait_until
from support.sockets import ask, heard_until_closed, refusal, socket_of
from support.totp import earlier_code

NEW = "another horse"


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[Identity]:
    found = await Identity(tmp_path).open()
    yield found
    await found.close()


def add_totp(server: RunningServer, token: str) -> tuple[pyotp.TOTP, list[str]]:
    begun = server.post("/factors/totp:begin", {}, token)
    totp = pyotp.TOTP(begun["secret"])
    # The code of the step before: the codes of now and of the next step stay for the test.
    answer = server.post("/factors/totp", {"ticket": begun["ticket"], "code": earlier_code(totp)}, token)
    return totp, answer["recovery_codes"]


def test_an_authenticator_app_is_asked_for_from_then_on(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    totp, codes = add_totp(server, token)
    body = {"username": "ana", "password": PASSWORD}

    asked = server.post("/sessions", body, status=401)
    assert (asked["code"], asked["field"]) == ("second_factor_required", "code")
    assert server.post("/sessions", body | {"code": totp.now()})["enrol"] is False
    assert len(codes) == len(set(codes)) == 10
    assert server.post("/sessions", body | {"code": codes[3].lower().replace("-", " ")})["device"]
    server.post("/sessions", body | {"code": codes[3]}, status=401)
    found = server.request("GET", "/factors", token=token)
    assert (found["totp"], found["recovery_codes"], found["required"], found["confirmed"]) == (True, 9, False, True)


def test_recovery_codes_are_shown_once_and_new_ones_end_the_old(server: RunningServer) -> None:
    token = server.set_up()["access_token"]
    server.post("/factors/recovery-codes", {}, token, status=409)
    _, codes = add_totp(server, token)
    fresh = server.post("/factors/recovery-codes", {}, token)["recovery_codes"]
    body = {"username": "ana", "password": PASSWORD}

    assert not set(codes) & set(fresh)
    server.post("/sessions", body | {"code": codes[0]}, status=401)
    server.post("/sessions", body | {"code": fresh[0]})
    server.request("DELETE", "/factors/totp", token=token)
    assert server.request("GET", "/factors", token=token)["recovery_codes"] == 0
    assert server.post("/sessions", body)["device"]


async def test_the_gateway_and_the_sdk_take_the_same_commands(server: RunningServer) -> None:
    session = server.set_up()
    async with ChatClient(server.url, session["access_token"]) as client:
        begun = await client.begin_totp()
        assert begun.uri.startswith("otpauth://totp/SecureChat:ana?secret=")
        assert await client.confirm_totp(begun.ticket, pyotp.TOTP(begun.secret).now())
        with pytest.raises(Conflict):
            await client.begin_totp()
        with pytest.raises(SecondFactorRequired):
            await client.confirm(PASSWORD)
        with pytest.raises(Forbidden, match="wrong"):
            await client.confirm("not the password")
        await client.confirm(PASSWORD, code=pyotp.TOTP(begun.secret).at(int(time.time()) + STEP_S))
        await client.change_password(PASSWORD, NEW)
        assert (await client.list_factors()).totp
        await client.remove_totp()
        with pytest.raises(NotFound):
            await client.remove_totp()

    assert server.post("/sessions", {"username": "ana", "password": NEW})["device"]


def required(server: RunningServer, *roles: str) -> None:
    server.stop()
    settings = json.loads(server.config.read_text()) | {"second_factor_roles": list(roles)}
    server.config.write_text(json.dumps(settings))
    server.start()


def hang_up(server: RunningServer) -> None:
    """Have the settings read again, and return when they were."""
    before = server.log.count("configuration read")
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.log.count("configuration read") > before, "the settings")


async def test_who_has_to_have_a_second_factor_sets_one_up_and_does_nothing_before(server: RunningServer) -> None:
    server.set_up()
    bob = server.invite("bob")
    room = server.room("ops", bob["user"]["id"])
    required(server, "member")
    session = server.post("/sessions", {"username": "bob", "password": PASSWORD})
    token = session["access_token"]

    assert session["enrol"] is True
    assert server.post("/sessions", {"username": "ana", "password": PASSWORD})["enrol"] is False
    for method, path, body in (
        ("GET", "/rooms", None), ("POST", f"/rooms/{room}/messages", {"cmid": "1", "body": "x"}), ("GET", "/devices", None),
        ("PUT", "/password", {"current": PASSWORD, "password": NEW}), ("GET", f"/rooms/{room}/entries", None),
        ("PATCH", "/me", {"display_name": "B"}), ("GET", "/users", None),
    ):  # fmt: skip
        assert server.request(method, path, body, token, status=403)["code"] == "enrolment_required", path
    error, code = await refusal(server, token)
    assert (error["code"], code) == ("enrolment_required", 4401)
    assert (await refusal(server, bob["access_token"]))[0]["code"] == "enrolment_required", "earlier sessions too"
    with pytest.raises(LoginRequired, match="second factor"):
        async with ChatClient(server.url, token):
            pass
    assert server.request("GET", "/me", token=token)["user"]["username"] == "bob"
    add_totp(server, token)
    socket, _ = await socket_of(server, token)
    assert (await ask(socket, "room.list"))["op"] == "reply"
    assert (await ask(socket, "totp.remove"))["code"] == "conflict", "the last factor of such a role stays"
    await socket.close()


async def test_a_connection_of_who_now_lacks_a_factor_is_closed(server: RunningServer) -> None:
    ana = server.set_up()
    bob, eve = server.invite("bob"), server.invite("eve")
    server.config.write_text(json.dumps({"second_factor_roles": ["admin"]}))
    hang_up(server)
    socket, _ = await socket_of(server, bob["access_token"])
    other, _ = await socket_of(server, eve["access_token"])
    await asyncio.to_thread(server.request, "PUT", f"/admin/users/{bob['user']['id']}/role", {"role": "admin"}, ana["access_token"])
    heard = await heard_until_closed(socket)

    assert socket.close_code == 4401
    assert (await refusal(server, bob["access_token"]))[0]["code"] == "enrolment_required"
    assert not any(frame["op"] == "reply" for frame in heard)
    await ask(other, "room.list")

    add_totp(server, ana["access_token"])
    enrolled, _ = await socket_of(server, ana["access_token"])
    server.config.write_text(json.dumps({"second_factor_roles": ["owner", "member"]}))
    hang_up(server)
    await heard_until_closed(other)
    assert other.close_code == 4401
    assert (await ask(enrolled, "room.list"))["op"] == "reply"
    await enrolled.close()


def test_the_operator_clears_the_factors_of_who_lost_them(server: RunningServer) -> None:
    ana = server.set_up()["access_token"]
    bob = server.invite("bob")
    add_totp(server, bob["access_token"])
    add_totp(server, ana)
    ana_id = server.operator().user("ana").id

    server.request("DELETE", f"/admin/users/{ana_id}/factors", token=bob["access_token"], status=403)
    server.request("DELETE", f"/admin/users/{ana_id}/factors", token=ana, status=403)
    server.request("DELETE", f"/admin/users/{bob['user']['id']}/factors", token=ana)
    server.request("GET", "/me", token=bob["access_token"], status=401)
    assert server.post("/sessions", {"username": "bob", "password": PASSWORD})["device"]
    done = subprocess.run(
        [SECURECHAT, "user", "clear-factors", "ana", "--data", str(server.data)], capture_output=True, text=True, check=True
    )
    assert "signed out everywhere" in done.stdout
    assert server.post("/sessions", {"username": "ana", "password": PASSWORD})["device"]


def terminal(server: RunningServer, tmp_path: Path, typed: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(SECURECHAT_PROFILE=str(tmp_path / "profile.json"))
    return command_line(*words, stdin=typed, environment=environment)


def test_the_terminal_asks_for_the_code_and_changes_the_password(server: RunningServer, tmp_path: Path) -> None:
    totp, codes = add_totp(server, server.set_up()["access_token"])
    login = ["login", server.url, "--user", "ana"]

    refused = terminal(server, tmp_path, f"{PASSWORD}\n000000\n", *login)
    assert (refused.returncode, "code is wrong" in refused.stderr) == (3, True)
    assert "Signed in" in terminal(server, tmp_path, f"{PASSWORD}\n{totp.now()}\n", *login).stdout
    changed = terminal(server, tmp_path, f"{PASSWORD}\n{NEW}\n", "password")
    assert "The new password holds" in changed.stdout, changed.stderr
    assert "Signed in" in terminal(server, tmp_path, f"{NEW}\n{codes[0]}\n", *login).stdout


def test_the_terminal_leads_who_has_to_enrol(server: RunningServer, tmp_path: Path) -> None:
    server.set_up()
    required(server, "owner")
    environment = clean_environment(SECURECHAT_PROFILE=str(tmp_path / "profile.json"))
    with subprocess.Popen(
        [SECURECHAT, "login", server.url, "--user", "ana"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{PASSWORD}\n")
        process.stdin.flush()
        uri = process.stdout.readline().strip()
        totp = pyotp.parse_uri(uri)
        assert isinstance(totp, pyotp.TOTP)
        process.stdin.write(f"{totp.now()}\n")
        process.stdin.close()
        shown = process.stdout.read()

    assert process.returncode == 0, shown
    assert shown.count("-") >= 30, "the recovery codes"
    assert "Signed in" in shown


# ── passkeys ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def with_passkey(identity: Identity, name: str) -> Authenticator:
    if await identity.accounts.account(username=name) is None:
        await identity.user(name)
    who = await identity.who(await identity.log_in(name))
    key = Authenticator(URL)
    begun = await identity.factors.begin_passkey(who, c.PasskeyBegin())
    assert begun.options["authenticatorSelection"]["userVerification"] == "required"
    await identity.factors.add_passkey(who, c.PasskeyAdd(ticket=begun.ticket, credential=key.create(begun.options), name="Key"))
    return key


async def use(identity: Identity, key: Authenticator, **changes: Any) -> c.Session:
    begun = await identity.factors.challenge(c.PasskeyChallenge(), HERE)
    credential = key.get(begun.options) | changes
    return await identity.factors.log_in(c.SessionPasskey(ticket=begun.ticket, credential=credential), HERE)


async def test_a_passkey_is_both_factors_at_once(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    session = await use(identity, key)

    assert (await identity.who(session)).username == "ana"
    assert (await identity.store.passkeys(session.user.id))[0].last_used_at == identity.clock.ms
    with pytest.raises(SecondFactorRequired):
        await identity.log_in("ana")


@pytest.mark.parametrize("change", ["cleared", "disabled"])
async def test_a_passkey_that_is_taken_away_opens_no_session_that_was_under_way(
    identity: Identity, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    key = await with_passkey(identity, "ana")
    account = await identity.accounts.account(username="ana")
    assert account is not None
    used = identity.store.use_passkey

    async def use_and_lose(user_id: str, passkey_id: str, old_count: int, new_count: int, at: int) -> bool:
        found = await used(user_id, passkey_id, old_count, new_count, at)
        if change == "cleared":
            await identity.store.clear_factors(account.user.id)
        else:
            await identity.accounts.update_user(account.user.id, disabled_at=at)
        await identity.auth.end_sessions(account.user.id)
        return found

    monkeypatch.setattr(identity.store, "use_passkey", use_and_lose)
    with pytest.raises(Unauthorized, match="This passkey does not work here"):
        await use(identity, key)

    assert await identity.accounts.devices(account.user.id) == []


async def test_a_passkey_confirms_its_owner_and_nobody_else(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    who = await identity.who(await use(identity, key))
    await identity.user("eve")
    eve = await identity.who(await identity.log_in("eve"))
    identity.clock.forward(601)
    for person, good in ((eve, False), (who, True)):
        begun = await identity.factors.challenge(c.PasskeyChallenge(), HERE)
        command = c.SessionConfirm(ticket=begun.ticket, credential=key.get(begun.options))
        if good:
            await identity.confirmation.confirm(person, command)
        else:
            with pytest.raises(Forbidden, match="not yours"):
                await identity.confirmation.confirm(person, command)

    assert await identity.confirmation.is_recent(who)
    assert not await identity.confirmation.is_recent(eve)


async def test_what_no_honest_browser_answers_opens_nothing(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    other = await with_passkey(identity, "eve")
    cases: dict[str, Any] = {}

    async def attempt(name: str, key: Authenticator, **changes: Any) -> None:
        with pytest.raises(Unauthorized) as refusal:
            await use(identity, key, **changes)
        cases[name] = str(refusal.value)

    key.origin = "http://localhost.evil.example:8080"
    await attempt("another origin", key)
    key.origin, key.rp_id = URL, "evil.example"
    await attempt("another site", key)
    key.rp_id, key.verifies = "localhost", False
    await attempt("nobody verified", key)
    key.verifies = True
    await attempt("unknown passkey", key, id="AAAA", rawId="AAAA")
    await attempt("somebody else's passkey", key, id=other.create({"challenge": ""})["id"])
    await attempt("nothing", key, response={})
    for credential in ({}, {"id": 1}, {"id": None, "response": "x"}, {"id": "x" * 5_000}):
        begun = await identity.factors.challenge(c.PasskeyChallenge(), HERE)
        with pytest.raises(Unauthorized):
            await identity.factors.log_in(c.SessionPasskey(ticket=begun.ticket, credential=credential), HERE)
    await identity.accounts.update_user((await identity.accounts.account(username="eve")).user.id, disabled_at=1)  # type: ignore[union-attr]
    await attempt("locked account", other)
    key.count = 500
    await use(identity, key)
    key.count = 3
    await attempt("a copy, whose counter is behind", key)

    assert set(cases.values()) == {"This passkey does not work here."}, "the answer does not say why"


async def test_a_challenge_is_answered_once_in_its_time_and_for_its_purpose(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    begun = await identity.factors.challenge(c.PasskeyChallenge(), HERE)
    command = c.SessionPasskey(ticket=begun.ticket, credential=key.get(begun.options))
    answers = await asyncio.gather(*(identity.factors.log_in(command, HERE) for _ in range(3)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in answers) == ["Session", "Unauthorized", "Unauthorized"]

    late = await identity.factors.challenge(c.PasskeyChallenge(), HERE)
    credential = key.get(late.options)
    identity.clock.forward(601)
    who = await identity.who(await use(identity, key))
    adding = await identity.factors.begin_passkey(who, c.PasskeyBegin())
    for ticket, answer in (
        (late.ticket, credential), (adding.ticket, key.get(adding.options)), ("", credential), ("x", credential),
        (late.ticket[:-4], credential), (begun.ticket, command.credential),
    ):  # fmt: skip
        with pytest.raises(Unauthorized):
            await identity.factors.log_in(c.SessionPasskey(ticket=ticket, credential=answer), HERE)


async def test_a_passkey_is_added_for_who_asked_only(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    ana = await identity.who(await use(identity, key))
    await identity.user("eve")
    eve = await identity.who(await identity.log_in("eve"))
    begun = await identity.factors.begin_passkey(ana, c.PasskeyBegin())
    assert [each["id"] for each in begun.options["excludeCredentials"]] == [key.create(begun.options)["id"]]
    fresh = Authenticator(URL)
    foreign = Authenticator("https://evil.example")
    lazy = Authenticator(URL)
    lazy.verifies = False
    for who, credential in (
        (eve, fresh.create(begun.options)), (ana, foreign.create(begun.options)), (ana, lazy.create(begun.options)), (ana, {}),
        (ana, fresh.create({"challenge": "AAAA"})),
    ):  # fmt: skip
        with pytest.raises(Forbidden):
            await identity.factors.add_passkey(who, c.PasskeyAdd(ticket=begun.ticket, credential=credential))
    with pytest.raises(Conflict):
        await identity.factors.add_passkey(ana, c.PasskeyAdd(ticket=begun.ticket, credential=key.create(begun.options)))
    begun = await identity.factors.begin_passkey(eve, c.PasskeyBegin())
    with pytest.raises(Conflict, match="known already"):
        await identity.factors.add_passkey(eve, c.PasskeyAdd(ticket=begun.ticket, credential=key.create(begun.options)))
    with pytest.raises(NotFound):
        await identity.factors.remove_passkey(eve, c.PasskeyRemove(passkey=key.create(begun.options)["id"]))


async def test_the_last_factor_of_a_role_that_must_have_one_stays(identity: Identity) -> None:
    key = await with_passkey(identity, "ana")
    identity.roles = {"member"}
    who = await identity.who(await use(identity, key))
    (passkey,) = await identity.store.passkeys(who.user_id)
    with pytest.raises(Conflict, match="must have"):
        await identity.factors.remove_passkey(who, c.PasskeyRemove(passkey=passkey.id))
    await identity.store.add_passkey(PasskeyRecord("second", who.user_id, "Second", b"", 0, 0, 0))
    await identity.factors.remove_passkey(who, c.PasskeyRemove(passkey=passkey.id))

    assert [each.id for each in await identity.store.passkeys(who.user_id)] == ["second"]


def test_a_folder_of_an_earlier_version_starts_and_its_codes_go_on_working(server: RunningServer) -> None:
    """Before, secrets of authenticator apps were sealed under a key file of their own."""
    ana = server.set_up()
    totp, _ = add_totp(server, ana["access_token"])
    server.stop()
    key, nonce, user = b"k" * 32, b"n" * 12, ana["user"]["id"]
    sealed = b"\x01" + nonce + AESGCM(key).encrypt(nonce, totp.secret.encode(), f"totp:{user}".encode())
    with sqlite3.connect(server.data / "securechat.db") as database:
        database.execute("UPDATE totp SET sealed_secret = ?", (sealed,))
    database.close()
    (server.data / "keys" / "secrets.key").write_bytes(key)
    server.start()

    body = {"username": "ana", "password": PASSWORD}
    assert server.post("/sessions", body, status=401)["code"] == "second_factor_required"
    assert server.post("/sessions", body | {"code": totp.now()})["device"]
    assert not (server.data / "keys" / "secrets.key").exists()
    server.stop()
    server.start()
    assert server.post("/sessions", body | {"code": totp.at(int(time.time()) + STEP_S)})["device"]


async def test_a_secret_is_sealed_with_the_newest_key_when_it_is_next_used(identity: Identity) -> None:
    await identity.user("ana")
    who = await identity.who(await identity.log_in("ana"))
    begun = await identity.factors.begin_totp(who, c.TotpBegin())
    totp = pyotp.TOTP(begun.secret)
    await identity.factors.confirm_totp(who, c.TotpConfirm(ticket=begun.ticket, code=Secret(totp.at(int(identity.now) - STEP_S))))
    await identity.keys.add_org_key(identity.keys.provider.create())
    before = await identity.store.totp(who.user_id)
    await identity.log_in("ana", code=totp.at(int(identity.now)))
    after = await identity.store.totp(who.user_id)

    assert before is not None
    assert after is not None
    assert not identity.box.is_current(before.sealed_secret)
    assert identity.box.is_current(after.sealed_secret)
    await identity.log_in("ana", code=totp.at(int(identity.now) + STEP_S))
