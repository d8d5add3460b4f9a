"""Proxies: for whom a peer speaks that stands in front of this server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from securechat.auth.addresses import PROXY_PROTOCOL, Network, client_address, peer_in, source_of


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies in front of this server.

    Attributes:
        trusted: Their networks.
        header: What they write: a key of `auth.addresses.HEADERS`, or `PROXY_PROTOCOL`.
    """

    trusted: tuple[Network, ...] = ()
    header: str = "x-forwarded-for"

    def trust(self, peer: str) -> bool:
        """Return whether a peer is one of them."""
        return bool(self.trusted) and any(peer_in(peer, network) for network in self.trusted)

    def announces(self, peer: str) -> bool:
        """Return whether a peer is a proxy that says before TLS whose connection it is."""
        return self.header == PROXY_PROTOCOL and self.trust(peer)

    def source(self, peer: str) -> str:
        """Return by what a peer is counted: its source; nothing for a proxy, which stands for many."""
        return "" if self.trust(peer) else source_of(peer)

    def client(self, peer: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Return whose request it is."""
        if self.header == PROXY_PROTOCOL:
            return peer  # That was said when the connection began: no header is believed.
        return client_address(peer, headers, self.trusted, self.header)
