"""The other side of attacks 11, 12, 86 and 112: limits by address have to let in a team that has one address."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from securechat import ChatClient
from securechat.domain import commands as c
from securechat.sdk.pins import PinStore
from support.running import RunningServer

PEOPLE = 500
WITHIN_S = 60.0


@pytest.mark.alone
async def test_an_office_of_five_hundred_behind_one_address_comes_back_at_once_and_is_let_in(tmp_path: Path) -> None:
    """With TLS, sealed sessions and our clients' patience, against the limits that everybody gets."""
    server = RunningServer(tmp_path / "data")
    server.config.write_text("{}")
    server.start()
    try:
        room = server.room("ops")
        tokens = [server.bot(f"person{number}", room) for number in range(PEOPLE // 20)]
        here = asyncio.get_running_loop().time
        async with contextlib.AsyncExitStack() as office:
            people = [
                ChatClient(server.tls_url, tokens[number % len(tokens)], ca=server.ca, pins=PinStore(None))
                for number in range(PEOPLE)
            ]
            began = here()
            async with asyncio.timeout(WITHIN_S):
                for person in await asyncio.gather(*(office.enter_async_context(each) for each in people)):
                    assert person.sealing.key_id, "nobody fell back to a clear connection"
            took = here() - began
            assert server.operator().perform(c.ServerStatus()).connections == PEOPLE
    finally:
        server.stop()
    print(f"{PEOPLE} from one address in {took:.1f} s")
