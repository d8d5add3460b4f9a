"""One message, through the named functions, in this order. `docs/explanation/architecture.md` shows the same walk."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from securechat import ChatClient
from securechat.domain import commands as c
from securechat.domain.accounts import OPERATOR
from securechat.store.sqlite import SqliteDatabase
from support.in_process import serving

WALK = [
    "ClientConnection.on_ws_frame",
    "SealedSession.open",
    "EncryptionManager.authentic",
    "HMACValidator.holds",
    "ReplayDetector.admit",
    "EncryptionManager.decrypt",
    "ReplayDetector.fresh",
    "ProtocolHandler.receive",
    "CommandDispatcher.dispatch",
    "RateLimiter.take_all",
    "MessagingService.send",
    "RoomLog.submit",
    "RoomLog._store_batch",
    "SqliteLog.commit",
    "_Transaction.load",
    "require_in",
    "LogWork.append",
    "_Transaction.write",
    "SqliteDatabase._commit",
    "RoomLog._tell",
    "Conversation._complete",
    "LocalBus.publish",
    "Hub.deliver",
    "ClientConnection.push",
    "Block.message",
    "MessageQueue.put",
    "TurnWriter._flush",
    "ClientConnection.flush",
    "MessageQueue.take",
    "SealedSession.seal_pieces",
    "EncryptionManager.seal_pieces",
]


def of_the_client(frame: FrameType | None) -> bool:
    """Both sides live in this process, and share the protocol's code."""
    while frame is not None:
        if "/sdk/" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


async def test_a_message_walks_through_the_named_functions_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as (parts, port):
        perform = parts.dispatcher.perform
        room = (await perform(OPERATOR, c.RoomCreate(name="ops", kind="public"), "")).id
        token = (await perform(OPERATOR, c.BotCreate(username="one", rooms=[room]), "")).token
        async with ChatClient(f"http://localhost:{port}", token) as client:
            walked: list[str] = []

            def look(frame: FrameType, event: str, _argument: Any) -> None:
                if event == "call" and "securechat" in frame.f_code.co_filename and not of_the_client(frame):
                    walked.append(frame.f_code.co_qualname)

            assert isinstance(parts.database, SqliteDatabase)
            commit = parts.database._commit

            def noted_commit() -> None:  # It runs in a thread of its own, which the profiler does not see.
                walked.append("SqliteDatabase._commit")
                commit()

            parts.database._commit = noted_commit  # type: ignore[method-assign]
            events = client.events()
            sys.setprofile(look)
            try:
                await client.rooms[room].send("hello")
                await asyncio.wait_for(anext(events), 5)
            finally:
                sys.setprofile(None)

    first = {name: walked.index(name) for name in WALK}
    assert sorted(WALK, key=first.__getitem__) == WALK
    assert (
        walked.count("_Transaction.write")
        == walked.count("SqliteDatabase._commit")
        == walked.count("EncryptionManager.seal_pieces")
        == 1
    )
