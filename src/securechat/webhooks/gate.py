"""Gate: which targets may be asked, and at which address. What is looked at is what is connected to: no name is resolved twice.

A target outside of `hooks_allow_networks` is asked over https, on port 443, at a public address; every address that its name leads
to has to be allowed, and addresses that hold another one (mapped, translated, tunnelled) are as good as the one that they hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from securechat.domain.subscriptions import URL_CHARS

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → addresses. Raises `Unreachable`."""

RESOLVE_S: Final = 5.0
LOOKUPS: Final = 4
"""Names that are looked up at once. One that takes for ever keeps its place, and nobody else's."""
SCHEMES: Final = {"https": 443, "http": 80}
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_TRANSLATED: Final = ipaddress.IPv6Network("64:ff9b::/96")
_TUNNELLED: Final = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


class Refused(Exception):
    """Nothing is sent there. The words name no address: who asks learns nothing of the network that the server is in."""


class Unreachable(Exception):
    """It cannot be found now."""


@dataclass(frozen=True, slots=True)
class Place:
    """A target, taken apart.

    Attributes:
        scheme: `https` or `http`.
        host: Name or address in lower case, in ASCII, without a dot at the end.
        port: Its port.
        path: Path and query.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """For `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == SCHEMES[self.scheme] else f"{host}:{self.port}"


def place_of(url: str) -> Place:
    """Take a URL apart.

    Raises:
        Refused: It is none that anything could be sent to.
    """
    if len(url) > URL_CHARS or any(char <= " " or char in "\x7f\\" for char in url):
        raise Refused("This is no URL.")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused("This is no URL.") from error
    if parts.scheme not in SCHEMES:
        raise Refused("The URL begins with https://.")
    if "@" in parts.netloc or parts.fragment:
        raise Refused("The URL holds a name, a password or a fragment.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii():
        raise Refused("What is not ASCII in the path has to be written with %.")
    return Place(parts.scheme, _clean_host(host), SCHEMES[parts.scheme] if port is None else port, path)


def host_of(url: str) -> str:
    """Return the host of a URL; empty for what is none: it was taken by another version, and nothing is sent there."""
    try:
        return place_of(url).host
    except Refused:
        return ""


def _clean_host(host: str) -> str:
    with contextlib.suppress(ValueError):
        if "%" not in host:
            return str(ipaddress.IPv6Address(host))
    try:
        name = host.encode("idna").decode().lower().removesuffix(".")  # Also turns digits of other scripts into ours.
    except UnicodeError as error:
        raise Refused("The URL names no host.") from error
    if not _HOST.fullmatch(name) or ".." in name or len(name) > 253:
        raise Refused("The URL names no host.")
    return name


def is_public(address: Address) -> bool:
    """Return whether an address is one of the public Internet, and so is whatever it holds."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if any(address in network for network in _TUNNELLED) or address in _COMPATIBLE or address.is_site_local:
            return False
        if address in _TRANSLATED:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


class Gate:
    """Says where something may be sent.

    Args:
        allowed: Networks whose addresses may be asked besides, on any port and without TLS.
        resolve: Finds addresses of names.
    """

    def __init__(self, allowed: Callable[[], Sequence[Network]], resolve: Resolve | None = None) -> None:
        self._allowed = allowed
        self._resolve = resolve or Resolver().resolve

    async def addresses(self, place: Place) -> list[str]:
        """Return the addresses of a place, all of which may be connected to; one at least.

        Raises:
            Refused: One of them may not.
            Unreachable: There are none now.
        """
        found = [_parsed(each) for each in await self._resolve(place.host, place.port)]
        if not found:
            raise Unreachable("The name leads nowhere.")
        ours = [self._is_allowed(each) for each in found]
        if not all(mine or is_public(each) for each, mine in zip(found, ours, strict=True)):
            raise Refused("It does not lead to an address that events may be sent to (hooks_allow_networks).")
        if not all(ours) and (place.scheme != "https" or place.port != SCHEMES["https"]):
            raise Refused("https on port 443 is wanted, except in a network that hooks_allow_networks names.")
        return [str(each) for each in found]

    def _is_allowed(self, address: Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        here = mapped or address
        return any(here.version == network.version and here in network for network in self._allowed())


def _parsed(text: str) -> Address:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError as error:
        raise Refused("It does not lead to an address.") from error


class Resolver:
    """Looks names up in threads of its own, few, which do not keep the process from ending."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKUPS)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the addresses of a name.

        Raises:
            Unreachable: There are none, or no answer came in time.
        """
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass  # A name, or an address in a form that only the system's resolver takes.
        try:
            async with asyncio.timeout(RESOLVE_S):
                await self._places.acquire()
                return await self._look_up(host, port)
        except TimeoutError as error:
            raise Unreachable("The name was not found in time.") from error
        except (OSError, UnicodeError) as error:
            raise Unreachable("The name leads nowhere.") from error

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[list[str]] = loop.create_future()

        def tell(found: list[str], error: Exception | None) -> None:
            self._places.release()
            if outcome.done():
                return  # Nobody waits any more.
            if error is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(found)

        def run() -> None:
            found: list[str] = []
            error: Exception | None = None
            try:
                found = [str(each[4][0]) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
            except (OSError, UnicodeError) as failure:
                error = failure
            with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
                loop.call_soon_threadsafe(tell, list(dict.fromkeys(found)), error)

        threading.Thread(target=run, name="resolve", daemon=True).start()
        return await outcome
