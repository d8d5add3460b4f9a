"""Proxies in a process of their own: `python -m support.proxy_main`, a command in JSON on each line in, an answer on each line out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from support.tcp_proxy import TcpProxy


async def _perform(proxies: dict[str, TcpProxy], command: dict[str, Any]) -> dict[str, Any]:
    name = command["name"]
    if command["do"] == "open":
        proxies[name] = TcpProxy(command["targets"])
        await proxies[name].listen()
    proxy = proxies[name]
    match command["do"]:
        case "set":
            proxy.set(**command["faults"])
        case "cut":
            proxy.cut(reset=command["reset"])
        case "refuse":
            proxy.refuse()
        case "listen":
            await proxy.listen()
        case "targets":
            proxy.targets = command["targets"]
    return {"port": proxy.port, "open": proxy.open, "accepted": proxy.accepted, "turns": proxy.turns}


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    proxies: dict[str, TcpProxy] = {}
    while line := await reader.readline():
        print(json.dumps(await _perform(proxies, json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
