"""The PROXY protocol, versions 1 and 2: a balancer that passes TLS on says first whose connection it is.

Who is trusted has to say it, and nobody else may. If it were optional, whoever reaches this port through the balancer's address
could leave it out or write their own.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from proxyprotocol import ProxyProtocolIncompleteError, ProxyProtocolWantRead
from proxyprotocol.detect import ProxyProtocolDetect

HEADER_S: Final = 5.0
"""The header is there within this time."""
HEADER_MAX: Final = 2_048
"""Bytes of a header: version 2 may carry further fields, of which none is read."""
LINE_MAX: Final = 107
"""Bytes of a header of version 1, by its specification."""


class NoProxyHeader(Exception):
    """A trusted proxy did not say whose connection this is."""


async def announced_peer(connection: socket.socket, proxy: str) -> str:
    """Take the header off a connection, not one byte more, and return the address of whose connection it is.

    Args:
        connection: Accepted, non-blocking, nothing read.
        proxy: Who is connected: the answer for what a proxy asks by itself, such as whether this server is well.

    Raises:
        NoProxyHeader: There is none, or it came too late.
        OSError: The connection broke.
    """
    parser = ProxyProtocolDetect()
    data = b""
    try:
        async with asyncio.timeout(HEADER_S):
            while True:
                try:
                    source = parser.unpack(data).source
                except ProxyProtocolIncompleteError as incomplete:
                    data += await _more(connection, incomplete.want_read, data)
                else:
                    break
    except (ValueError, struct.error) as error:  # The library unpacks addresses that are shorter than their type says.
        raise NoProxyHeader(str(error)) from None
    except TimeoutError:
        raise NoProxyHeader("too late") from None
    address = source[0] if isinstance(source, tuple) else None
    return str(address) if isinstance(address, IPv4Address | IPv6Address) else proxy


async def _more(connection: socket.socket, wanted: ProxyProtocolWantRead, data: bytes) -> bytes:
    """Read what is missing."""
    if wanted.want_bytes is not None:
        if len(data) + wanted.want_bytes > HEADER_MAX:
            raise NoProxyHeader("too long")
        return await _exactly(connection, wanted.want_bytes)
    # The end of a line is found by reading byte after byte: what follows it belongs to TLS.
    line = b""
    while not line.endswith(b"\n"):
        if len(data) + len(line) >= LINE_MAX:
            raise NoProxyHeader("too long")
        line += await _exactly(connection, 1)
    return line


async def _exactly(connection: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(connection, size - len(data))
        if not piece:
            raise NoProxyHeader("ended")
        data += piece
    return data
