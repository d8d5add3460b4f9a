"""Accounts that are locked, or given back, while what hangs off them cannot be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR, STRANGER
from securechat.domain.secret import Secret
from securechat.errors import LinkInvalid, Unauthorized, Unavailable
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import LoginRequired
from securechat.server.wiring import Parts
from support.in_process import serving
from support.running import PASSWORD


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Parts, int]]:
    async with serving(tmp_path / "data") as (parts, port):
        yield parts, port


async def unavailable(*_: Any, **__: Any) -> Any:
    raise Unavailable


async def register(parts: Parts) -> tuple[str, str]:
    """Return (user id, refresh token) of somebody with a password."""
    perform = parts.dispatcher.perform
    invite = await perform(OPERATOR, c.InviteCreate(), "")
    session = await perform(
        STRANGER,
        c.AccountRegister(code=Secret(invite.code), username="ana", display_name="Ana", password=Secret(PASSWORD)),
        "127.0.0.1",
    )
    return session.user.id, session.refresh_token


async def test_a_locked_account_is_closed_though_its_sessions_cannot_be_ended_and_they_do_not_come_back(
    served: tuple[Parts, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, port = served
    perform = parts.dispatcher.perform
    user, refresh = await register(parts)
    bot = await perform(OPERATOR, c.BotCreate(username="one"), "")
    async with ChatClient(f"http://localhost:{port}", bot.token) as client:
        with monkeypatch.context() as patch:
            patch.setattr(type(parts.accounts._accounts), "revoke_devices", unavailable)
            for command in (c.UserDisable(user=user), c.BotRevoke(user=bot.user.id)):
                with pytest.raises(Unavailable):
                    await perform(OPERATOR, command, "")
        with pytest.raises(LoginRequired):
            async for _ in client.events():
                pass

    await perform(OPERATOR, c.UserEnable(user=user), "")
    with pytest.raises(Unauthorized):
        await perform(STRANGER, c.SessionRefresh(refresh_token=Secret(refresh)), "127.0.0.1")


async def test_a_reset_link_that_was_used_for_nothing_works_again(
    served: tuple[Parts, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, _ = served
    perform = parts.dispatcher.perform
    user, _ = await register(parts)
    link = (await perform(OPERATOR, c.UserReset(user=user), "")).url
    reset = c.PasswordReset(token=Secret(link.rpartition("t=")[2]), password=Secret("another long enough one"))
    with monkeypatch.context() as patch:
        patch.setattr(type(parts.accounts._accounts), "update_user", unavailable)
        with pytest.raises(Unavailable):
            await perform(STRANGER, reset, "127.0.0.1")

    await perform(STRANGER, reset, "127.0.0.1")
    with pytest.raises(LinkInvalid):
        await perform(STRANGER, reset, "127.0.0.1")
