"""Who may hear: joins and removals in the same batches as messages. Attack 61: removed while a delivery is on its way."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from support.fault_world import World, assert_none
from support.server_process import eventually_async


def inside_batches(world: World) -> int:
    """Count joins and removals committed together with messages: entries of one batch have one time."""
    with closing(sqlite3.connect(world.server.database)) as db:
        return int(
            db.execute(
                "SELECT count(*) FROM entries m WHERE m.room_id = ? AND m.type LIKE 'member.%' AND EXISTS (SELECT 1 FROM entries e"
                " WHERE e.room_id = m.room_id AND e.at = m.at AND e.type = 'message.sent' AND abs(e.seq - m.seq) = 1)",
                (world.people.hall,),
            ).fetchone()[0]
        )


async def test_61_who_joins_hears_nothing_older_and_who_goes_hears_nothing_newer(world: World) -> None:
    await world.start(talkers=0, listeners=6, readers=0, faults=["--slow-disk", "0.02"])
    outsider = world.client(9, listens=True, resume=False)
    outsider.keep_bytes = True
    await outsider.start()
    await world.crowd(talkers=3, guests=3, visits=12)
    await world.quiet()
    assert world.people.hall.encode() not in b"".join(outsider.heard), "somebody outside heard of the room"
    assert_none(await world.verdict())
    changes = inside_batches(world)
    assert changes >= 20, f"only {changes} joins and removals were committed together with messages: the run shows too little"
    print(f"{changes} joins and removals in the same commits as messages, {world.history.acknowledged} messages")


async def test_who_connects_while_being_let_in_is_shown_everything_once(world: World) -> None:
    """The join is stored and in `ready`, and is told to everybody a moment later: to this connection, too."""
    hall = world.people.hall
    await world.start(talkers=0, listeners=1, faults=["--slow-publish", "0.7"])
    (member,) = world.clients
    await member.command("room.join", room=hall)
    await member.post(hall, "before")
    bot = world.bot(5)
    letting_in = asyncio.create_task(world.server.ask("member.add", room=hall, user=bot.user))

    async def stored() -> bool:
        return bot.user in {each["user"]["id"] for each in (await member.command("member.list", room=hall))["members"]}

    await eventually_async(stored, 10, "the join is stored")
    raw = world.client(5)
    raw.last[hall] = 0
    reader = world.reader_of(bot, dict.fromkeys([*world.rooms, hall], 0))
    await asyncio.gather(raw.start(), reader.start())
    await letting_in
    await member.post(hall, "after")
    await world.quiet()
    await world.until(lambda: reader.last.get(hall, 0) == member.last[hall])
    assert_none(await world.verdict())
