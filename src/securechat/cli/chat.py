"""Chat from a terminal: who one is, one message, and the line mode."""

from __future__ import annotations

import os
import sys

from securechat.cli.output import say, say_json
from securechat.cli.signin import run
from securechat.domain import commands as c
from securechat.errors import Shutdown
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import LoginRequired
from securechat.sdk.profile import load_profile


def who_am_i(*, as_json: bool) -> None:
    """Print who one is."""

    async def work() -> tuple[c.Identity, str, int]:
        async with ChatClient.connect() as client:
            return await client.me(), client.url, len(client.rooms)

    identity, url, rooms = run(work())
    if as_json:
        say_json(identity)
    else:
        say(f"@{identity.user.username} ({identity.user.display_name}, {identity.user.role.value}) on {url}, {rooms} rooms")


def send_one(room_name: str, text: str | None, cmid: str, *, as_json: bool) -> None:
    """Send one message."""
    body = text if text is not None else sys.stdin.read().rstrip("\n")

    async def work() -> c.Sent:
        async with ChatClient.connect() as client:
            return await (await client.room(room_name)).send(body, cmid=cmid)

    sent = run(work())
    if as_json:
        say_json(sent)


def chat_plain(room_name: str | None) -> None:
    """Chat until the end of standard input."""
    from securechat.cli.line_mode import LineMode  # noqa: PLC0415 - one message from a script needs none of it

    _require_profile()

    async def work() -> None:
        async with ChatClient.connect() as client:
            await LineMode(client).run(room_name)

    run(work())


def _require_profile() -> None:
    """Say at once when there is nobody to chat as."""
    if "SECURECHAT_TOKEN" in os.environ:
        return
    try:
        load_profile()
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error
