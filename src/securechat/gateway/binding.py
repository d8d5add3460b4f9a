"""Sockets for the addresses of a host."""

from __future__ import annotations

import asyncio
import errno
import socket


async def bind(host: str, port: int, *, shared: bool) -> list[socket.socket]:
    """Return a socket for each address of a host, IPv4 and IPv6, that this machine has.

    Raises:
        OSError: One of them is taken, or none is ours.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _name, address in dict.fromkeys(found):
        try:
            each = socket.socket(family, kind, protocol)
        except OSError as error:  # No IPv6 in this kernel.
            missing = error
            continue
        try:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(address)
        except OSError as error:
            each.close()
            if error.errno == errno.EADDRNOTAVAIL:
                missing = error
                continue
            for other in sockets:
                other.close()
            raise
        sockets.append(each)
    if not sockets:
        raise missing or OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    return sockets
