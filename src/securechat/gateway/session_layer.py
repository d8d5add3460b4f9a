"""SessionLayer: which sub-protocol a connection gets, and what a handshake needs to know."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from securechat.gateway.admission import HandshakeAdmission
from securechat.protocol import frames as f
from securechat.protocol.handshake import Identities, ServerHandshake
from securechat.protocol.session import EpochLimits, SessionClock

Policy = Literal["required", "preferred", "off"]


@dataclass(frozen=True, slots=True)
class SessionLayer:
    """The sealed sub-protocol of this server.

    Attributes:
        policy: What holds now. `required` refuses the clear sub-protocol, `off` the sealed one.
        identities: Who the server is.
        knows_host: Whether a host (`name[:port]`) is this server.
        limits: How long keys are used.
        clock: Of the sessions.
        admission: The turn of each handshake.
        published: The signed list of identity keys, if there is one.
        root: Id of the root that signed it, in hex; empty without one.
    """

    policy: Callable[[], Policy]
    identities: Identities
    knows_host: Callable[[str], bool]
    limits: Callable[[], EpochLimits]
    clock: SessionClock
    admission: HandshakeAdmission
    published: Callable[[], bytes | None]
    root: Callable[[], str]

    def choose(self, offered: Collection[str]) -> str | None:
        """Return the sub-protocol for a client that offers these; None for none. Sealed goes before clear."""
        policy = self.policy()
        if policy != "off" and f.SUBPROTOCOL in offered:
            return f.SUBPROTOCOL
        if policy != "required" and f.SUBPROTOCOL_CLEAR in offered:
            return f.SUBPROTOCOL_CLEAR
        return None

    def handshake(self) -> ServerHandshake:
        """Return the server's side of a new handshake."""
        return ServerHandshake(self.identities, self.knows_host, self.limits(), self.clock)
