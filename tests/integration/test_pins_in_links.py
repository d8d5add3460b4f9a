"""Links carry the keys by which the server is to be known: nothing has to be believed at the first contact."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import Role
from securechat.sdk.client import ChatClient
from securechat.sdk.entrance import Entrance
from securechat.sdk.errors import Untrusted
from securechat.sdk.pins import Pins, PinStore, pins_of, secret_of
from securechat.server.identity import IdentityKeys
from support.running import PASSWORD, SECURECHAT, RunningServer, clean_environment

WRONG = "22" * 32


def pin_of(server: RunningServer) -> str:
    keys = IdentityKeys(server.data / "keys")
    keys.load()
    return keys.choose(()).key_id.hex()


def login(server: RunningServer, link: str, username: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(SECURECHAT_PROFILE=str(folder / "profile.json"))
    return subprocess.run(
        [SECURECHAT, "login", link, "--user", username], input=f"{PASSWORD}\n", env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip


def test_every_link_and_every_bot_names_the_servers_key(server: RunningServer) -> None:
    pin = pin_of(server)
    assert f"/setup#pin={pin},t={server.setup_token}" in server.banner
    server.set_up()
    operator = server.operator()
    made = operator.perform(c.UserCreate(username="bob"))
    reset = operator.perform(c.UserReset(user=made.user.id)).url
    invite = operator.perform(c.InviteCreate()).url
    bot = operator.perform(c.BotCreate(username="roll"))

    for url in (made.url, reset):
        assert url.startswith(f"{server.url}/reset#pin={pin},t=sc_lnk_")
        assert secret_of(url.partition("#")[2]).startswith("sc_lnk_")
    assert invite.endswith(f"#pin={pin}")
    assert pins_of(invite.partition("#")[2]) == [pin]
    assert bot.pin == operator.perform(c.BotRotate(user=bot.user.id)).pin == pin
    printed = subprocess.run(
        [SECURECHAT, "bot", "create", "echo", "--data", str(server.data)], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert f"export SECURECHAT_PIN={pin}\n" in printed + "\n"


def test_a_key_that_signs_next_is_named_too_and_none_where_nothing_is_sealed(server: RunningServer) -> None:
    server.set_up()
    first = pin_of(server)
    keys = IdentityKeys(server.data / "keys")
    keys.load()
    second = keys.add(not_before=2**31).kid
    server.stop()
    server.start()
    assert pins_of(server.operator().perform(c.InviteCreate()).url.partition("#")[2]) == [first, second]
    server.stop()
    server.config.write_text(json.dumps(json.loads(server.config.read_text()) | {"session_layer": "off"}))
    server.start()
    assert "#" not in server.operator().perform(c.InviteCreate()).url


def test_the_terminal_takes_the_key_of_a_link_and_refuses_another_server(server: RunningServer, tmp_path: Path) -> None:
    link = f"{server.url}/setup#pin={pin_of(server)},t={server.setup_token}"
    bad = login(server, link.replace(pin_of(server), WRONG), "ana", tmp_path)
    assert bad.returncode == 2
    assert "another key" in bad.stderr
    assert not (tmp_path / "profile.json").exists()
    good = login(server, link, "ana", tmp_path)
    assert good.returncode == 0, good.stderr
    assert server.operator().user("ana").role is Role.OWNER
    invite = server.operator().perform(c.InviteCreate()).url
    assert login(server, invite.replace(pin_of(server), WRONG), "bob", tmp_path / "bob").returncode == 2
    assert login(server, invite, "bob", tmp_path / "bob").returncode == 0


async def test_the_sdk_takes_the_key_of_a_link_and_refuses_another_server(
    server: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = pin_of(server)
    with pytest.raises(Untrusted):
        await Entrance(server.url, pins=[WRONG]).check_server()
    await Entrance(server.url).check_server()
    entrance = Entrance(server.url, pins=[pin])
    await entrance.check_server()
    session = await entrance.set_up(server.setup_token, "ana", PASSWORD)
    kept = PinStore(tmp_path / "servers.json")
    monkeypatch.setattr("securechat.sdk.entrance.default_store", lambda _url: kept)
    entrance.keep(session, tmp_path / "profile.json")
    host = server.url.partition("//")[2]
    assert kept.of(host).keys == [pin]

    async with ChatClient(profile=tmp_path / "profile.json", pins=kept) as client:
        assert client.sealing.key_id == pin
    kept.keep(host, Pins(keys=[WRONG], sealed=True))
    entrance.keep(session, tmp_path / "profile.json")
    assert kept.of(host).keys == [WRONG], "a link replaces nothing that is known"
