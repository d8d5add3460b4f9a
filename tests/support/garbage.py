"""A process that sends nothing sensible: so that what it costs is the server's time and not that of the clients who are measured.

`python -m support.garbage PORT TOKEN SEED WRONG NOISE PER_S` prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import sys
from typing import Any, Final

from support.raw_socket import RawSocket, frame, noise

AT_ONCE: Final = 50
WORKERS: Final = 12
PER_CONNECTION: Final = 50


def wrong_frame(rng: random.Random, number: int) -> dict[str, Any]:
    """Return a frame that is an object, and still not one that can be understood."""
    seq = rng.getrandbits(64)
    return {
        "id": f"w{number}",
        **rng.choice(
            [
                {"op": f"no.such.{seq}"},
                {"op": rng.choice([None, 5, [], {}])},
                {},
                {"op": "message.send", "room": seq, "cmid": "a", "body": "b"},
                {"op": "message.send", "room": "rm_0000000000000000", "cmid": "a b", "body": "c"},
                {"op": "message.send", "room": "rm_0000000000000000", "cmid": "a", "body": "b", "more": 1},
                {"op": "message.send", "room": "r" * 30, "cmid": "a", "body": "b"},
                {"op": "fetch", "room": "rm_0000000000000000", "limit": seq},
                {"op": "fetch", "room": "rm_0000000000000000", "before": -1},
                {"op": "reaction.add", "room": "rm_0000000000000000", "seq": 1.5, "emoji": "x"},
                {"op": "auth", "token": "x" * 3_000},
                {"op": "resume", "rooms": {"rm_0000000000000000": "1"}},
            ]
        ),
    }


async def send_wrong(port: int, token: str, rng: random.Random, count: int, per_s: int) -> dict[str, int]:
    """Send frames with mistakes on one connection that lives; each has to be answered under its own id."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    connection = await RawSocket.open(port, limit=2**20)
    await connection.authenticate(token)
    result: collections.Counter[str] = collections.Counter()
    for start in range(0, count, AT_ONCE):
        await asyncio.sleep(began + start / per_s - loop.time())
        numbers = range(start, min(start + AT_ONCE, count))
        await connection.flush(b"".join(frame(json.dumps([wrong_frame(rng, number)]).encode()) for number in numbers))
        missing = {f"w{number}" for number in numbers}
        while missing:
            message = await connection.receive()
            if message is None:
                result[f"closed {connection.close_code}"] += 1
                return dict(result)
            for answer in message:
                if answer["op"] == "error":
                    result[answer["code"]] += 1
                    missing.discard(answer["id"])
    connection.end()
    return dict(result)


async def send_noise(port: int, rng: random.Random, count: int) -> dict[str, int]:
    """Send frames of chance until the server ends each connection."""
    result: collections.Counter[str] = collections.Counter()
    for _ in range(0, count, PER_CONNECTION):
        connection = await RawSocket.open(port)
        await connection.flush(b"".join(noise(rng) for _ in range(PER_CONNECTION)) + frame(b"\xff\xff"))
        try:
            result[str(await connection.closed(15))] += 1
        except TimeoutError:
            result["stayed open"] += 1
        connection.end()
    return dict(result)


async def main() -> None:
    """Send, and tell what came of it."""
    port, token, seed, wrong, chance, per_s = int(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:7])
    rng = random.Random(seed)
    found = await asyncio.gather(
        send_wrong(port, token, rng, wrong, per_s),
        *(send_noise(port, random.Random(rng.random()), chance // WORKERS) for _ in range(WORKERS)),
    )
    ends: collections.Counter[str] = collections.Counter()
    for each in found[1:]:
        ends.update(each)
    sys.stdout.write(json.dumps({"answers": found[0], "ends": ends}) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
