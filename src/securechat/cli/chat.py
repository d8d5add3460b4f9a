"""Chat from a terminal: who one is, one message, and the line mode."""

from __future__ import annotations

import asyncio
import os
import sys

from securechat.cli.output import counted, note, say, say_json
from securechat.cli.signin import reached, run
from securechat.domain import commands as c
from securechat.errors import Shutdown
from securechat.sdk.client import ChatClient
from securechat.sdk.errors import ConnectionLost, LoginRequired
from securechat.sdk.outbox import new_cmid
from securechat.sdk.profile import load_profile


def who_am_i(*, as_json: bool) -> None:
    """Print who one is."""

    async def work() -> tuple[c.Identity, str, int]:
        async with reached() as client:
            return await client.me(), client.url, len(client.rooms)

    identity, url, rooms = run(work())
    if as_json:
        say_json(identity)
    else:
        user = identity.user
        say(f"@{user.username} ({user.display_name}, {user.role.value}) on {url}, {counted(rooms, 'room')}")


def send_one(room_name: str, text: str | None, cmid: str, *, timeout_s: float, as_json: bool) -> None:
    """Send one message, and say that it may not be sent when there is no answer in time."""
    body = text if text is not None else sys.stdin.read().rstrip("\n")

    cmid = cmid or new_cmid()

    async def work() -> c.Sent:
        client = ChatClient.connect()
        client.on_trouble = lambda reason: _tell_trouble(client.url, reason)
        try:
            async with asyncio.timeout(timeout_s):
                await client.start()
                return await (await client.room(room_name)).send(body, cmid=cmid)
        except TimeoutError as error:
            again = f" The same again with --cmid {cmid} is one message."
            raise ConnectionLost(f"No answer in {timeout_s:g} s: the message is not surely sent.{again}") from error
        finally:
            await client.close()

    sent = run(work())
    if as_json:
        say_json(sent)


def chat_plain(room_name: str | None) -> None:
    """Chat until the end of standard input."""
    from securechat.cli.line_mode import LineMode  # noqa: PLC0415 - one message from a script needs none of it

    _require_profile()

    async def work() -> None:
        client = ChatClient.connect()
        client.on_trouble = lambda reason: _tell_trouble(client.url, reason, " Ctrl+C leaves.")
        async with client:
            client.on_trouble = lambda reason: note("── connection lost, trying again" if reason else "── back")
            await LineMode(client).run(room_name)

    run(work())


def _tell_trouble(url: str, reason: str, advice: str = "") -> None:
    if reason:
        told = f"Nothing answers at {url}" if reason.startswith("Nothing answers") else reason
        note(f"{told}: trying again.{advice}")


def _require_profile() -> None:
    """Say at once when there is nobody to chat as."""
    if "SECURECHAT_TOKEN" in os.environ:
        return
    try:
        load_profile()
    except LoginRequired as error:
        raise Shutdown(str(error), 3) from error
