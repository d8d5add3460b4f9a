"""Whose a token is can be remembered: where to look, never that there is something to find."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from securechat.auth import manager
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, STRANGER
from securechat.domain.secret import Secret
from securechat.errors import Unauthorized
from securechat.sdk.client import ChatClient
from securechat.server.wiring import Parts
from support.in_process import serving
from support.running import PASSWORD


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Parts, int]]:
    async with serving(tmp_path / "data") as (parts, port):
        yield parts, port


async def bot(parts: Parts, name: str) -> tuple[str, Secret]:
    found = await parts.dispatcher.perform(OPERATOR, c.BotCreate(username=name, rooms=[]), "")
    return found.user.id, Secret(found.token)


def asked(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the store is asked about sessions from now on."""
    store, seen = parts.auth._accounts, []
    original = store.session

    async def session(**how: Any) -> Any:
        seen.append(how)
        return await original(**how)

    monkeypatch.setattr(store, "session", session)
    return seen


async def test_who_comes_in_is_looked_up_once_and_by_their_user(served: tuple[Parts, int], monkeypatch: pytest.MonkeyPatch) -> None:
    parts, port = served
    _, token = await bot(parts, "one")
    await parts.dispatcher.perform(OPERATOR, c.UserCreate(username="ana", password=Secret(PASSWORD)), "")
    ana = await parts.dispatcher.perform(STRANGER, c.SessionCreate(username="ana", password=Secret(PASSWORD)), "127.0.0.1")
    async with ChatClient(f"http://localhost:{port}", token.reveal()):
        pass
    seen = asked(parts, monkeypatch)
    async with ChatClient(f"http://localhost:{port}", token.reveal()):
        assert [bool(how.get("user_id")) for how in seen] == [True]
    seen.clear()
    async with ChatClient(f"http://localhost:{port}", ana.access_token):
        assert [bool(how.get("user_id")) for how in seen] == [True]


@pytest.mark.parametrize("end", [c.BotRotate, c.BotRevoke])
async def test_a_token_that_ended_does_not_hold_because_it_is_remembered(served: tuple[Parts, int], end: Any) -> None:
    parts, _ = served
    user_id, token = await bot(parts, "one")
    assert (await parts.auth.authenticate(token)).user_id == user_id
    await parts.dispatcher.perform(OPERATOR, end(user=user_id), "")
    with pytest.raises(Unauthorized):
        await parts.auth.authenticate(token)


async def test_only_so_many_are_remembered_and_nobodys_tokens_are_not(
    served: tuple[Parts, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "HOLDERS_MAX", 2)
    parts, _ = served
    made = [(await bot(parts, f"bot{number}"))[1] for number in range(3)]
    for token in [*made, made[1]]:
        await parts.auth.authenticate(token)
    with pytest.raises(Unauthorized):
        await parts.auth.authenticate(Secret("sc_bot_nobody"))
    seen = asked(parts, monkeypatch)
    for token in [made[1], made[2], made[0]]:
        await parts.auth.authenticate(token)
    assert [how.get("user_id", "") == "" for how in seen] == [False, False, True, False]
