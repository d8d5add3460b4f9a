"""Accepts connections; under TLS with the certificate of this moment: a new one holds from the next connection on, none is dropped.

While a certificate authority checks a name (TLS-ALPN-01), a look at the first bytes tells its connections from everybody else's.
Behind a balancer that passes TLS on, the PROXY protocol comes before it and says whose connection it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

import aiofastnet

from securechat.gateway.proxy_protocol import NoProxyHeader, announced_peer

log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 5.0
"""A TLS handshake is done within this time."""
SHUTDOWN_S: Final = 2.0
BACKLOG: Final = 1_024
CHALLENGE_PROTOCOL: Final = "acme-tls/1"
"""The ALPN name of RFC 8737."""
_BIO_BYTES: Final = 17 * 1024
"""OpenSSL's buffers per TLS connection: just more than one TLS record. The default costs four times as much memory."""
_BATCH: Final = 4
"""Connections accepted in one turn of the loop. As many are at each step of their handshake in a turn of a storm: that is how long
those who are connected wait. No turn is lost by it, since the rest is still readable in the next one."""
_HELLO_MAX: Final = 16_384
_HELLO_POLL_S: Final = 0.01
"""How often a hello that comes in pieces is looked at again; only while a name is being checked."""
_NO_FILES_S: Final = 1.0
_OUT_OF_FILES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def quiet_about_strangers(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle what nobody caught: a broken connection is no line in the log, all else is.

    The network library reports some handshakes that fail with the class of the error in the place of the error, which
    `logging` cannot even print: anybody could fill the log with that. And the loop leaves the lookup of a name behind whose
    answer nobody waits for any more; whoever does is told.
    """
    error = context.get("exception")
    kind = error if isinstance(error, type) else type(error)
    if "transport" in context and issubclass(kind, OSError):
        log.debug("connection broken", extra={"reason": kind.__name__})
        return
    if issubclass(kind, socket.gaierror) and not isinstance(context.get("future"), asyncio.Task | None):
        log.debug("a name was not found, too late for who asked")
        return
    loop.default_exception_handler(context)


def once(work: Callable[[], None]) -> Callable[[], None]:
    """Return something that does the work the first time that it is called."""
    waiting = [work]

    def call() -> None:
        if waiting:
            waiting.pop()()

    return call


def _nobody(_peer: str) -> bool:
    return False


class TLSSource(Protocol):
    """Where the contexts come from; read at each connection."""

    @property
    def context(self) -> ssl.SSLContext:
        """For everybody."""

    @property
    def challenge(self) -> ssl.SSLContext | None:
        """For the certificate authority, while it checks a name; it speaks `acme-tls/1` only."""


class Acceptor:
    """Listening sockets, with TLS or without.

    Args:
        sockets: Bound to their addresses.
        make: Makes the protocol of a connection. Gets what to call as soon as the connection is made, before it is counted anew,
            and whose it is if a proxy said so, else nothing.
        tls: Where the contexts come from; None for no TLS.
        door: Asked with the address of each new peer: returns what to call when its handshake has ended, one way or the other;
            None to close it at once.
        announces: Whether a peer is a proxy that has to say by the PROXY protocol whose connection it is.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        make: Callable[[Callable[[], None], str], Any],
        tls: TLSSource | None,
        door: Callable[[str], Callable[[], None] | None],
        announces: Callable[[str], bool] = _nobody,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sockets = sockets
        self._make = make
        self._tls = tls
        self._door = door
        self._announces = announces
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        for each in sockets:
            each.settimeout(0)
            each.listen(BACKLOG)
            self._loop.add_reader(each.fileno(), self._accept, each)

    def close(self) -> None:
        """Take no new connections; handshakes that have begun go on."""
        if self._closed:
            return
        self._closed = True
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())
            each.close()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                # It would be reported as readable for ever: look away for a moment.
                log.error("out of open files: new connections wait", extra={"reason": error.strerror})  # noqa: TRY400 - no traceback helps
                self._loop.remove_reader(listening.fileno())
                self._loop.call_later(_NO_FILES_S, self._accept_again, listening)
                return
            peer = str(address[0])
            shaken = self._door(peer)
            if shaken is None:
                connection.close()
                continue
            begun = self._begin_announced(connection, peer, shaken) if self._announces(peer) else self._begin(connection, shaken)
            task = self._loop.create_task(begun)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _accept_again(self, listening: socket.socket) -> None:
        if not self._closed:
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    async def _begin_announced(self, connection: socket.socket, proxy: str, heard: Callable[[], None]) -> None:
        """Ask the door anew, with whose connection it is."""
        connection.settimeout(0)
        shaken = None
        try:
            peer = await announced_peer(connection, proxy)
        except NoProxyHeader as error:
            log.warning("closed: a trusted proxy did not say whose connection it is", extra={"proxy": proxy, "reason": str(error)})
        except OSError:
            log.debug("connection broken", extra={"proxy": proxy})
        else:
            shaken = self._door(peer)
        finally:
            heard()
            if shaken is None:
                connection.close()
        if shaken is not None:
            await self._begin(connection, shaken, peer)

    async def _begin(self, connection: socket.socket, shaken: Callable[[], None], peer: str = "") -> None:
        try:
            await self._shake(connection, shaken, peer)
        finally:
            shaken()

    async def _shake(self, connection: socket.socket, shaken: Callable[[], None], peer: str) -> None:
        # Whoever breaks a handshake off is not worth a line in the log: anybody can do it, as often as they like.
        connection.settimeout(0)
        if self._tls is None:
            with contextlib.suppress(OSError):
                await aiofastnet.connect_accepted_socket(self._loop, lambda: self._make(shaken, peer), connection)
            return
        challenge = self._tls.challenge
        if challenge is not None and await self._wants(connection, challenge):
            with contextlib.suppress(OSError):
                await self._answer(connection, challenge)
            return
        with contextlib.suppress(OSError):  # The transport has closed the socket then, or will.
            await aiofastnet.connect_accepted_socket(
                self._loop, lambda: self._make(shaken, peer), connection, ssl=self._tls.context,
                ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S,
                ssl_incoming_bio_size=_BIO_BYTES, ssl_outgoing_bio_size=_BIO_BYTES,
            )  # fmt: skip

    async def _wants(self, connection: socket.socket, challenge: ssl.SSLContext) -> bool:
        """Look at the hello without taking it: does it ask for the protocol of challenges?"""
        seen = b""
        with contextlib.suppress(OSError):  # A deadline, too: the real handshake will meet the same.
            async with asyncio.timeout(HANDSHAKE_S):
                while len(seen) < _HELLO_MAX:
                    with contextlib.suppress(BlockingIOError):
                        now = connection.recv(_HELLO_MAX, socket.MSG_PEEK)
                        if not now:
                            return False
                        if now != seen:
                            seen = now
                            wants = _asks_for_challenge(seen, challenge)
                            if wants is not None:
                                return wants
                    await asyncio.sleep(_HELLO_POLL_S)
        return False

    async def _answer(self, connection: socket.socket, challenge: ssl.SSLContext) -> None:
        """Do the handshake, which is all that is wanted, and close."""
        transport, _ = await self._loop.connect_accepted_socket(
            asyncio.Protocol, connection, ssl=challenge, ssl_handshake_timeout=HANDSHAKE_S, ssl_shutdown_timeout=SHUTDOWN_S
        )
        transport.close()


def _asks_for_challenge(hello: bytes, challenge: ssl.SSLContext) -> bool | None:
    """Let OpenSSL read a hello that nobody answers; None while it is not whole."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(hello)
    probe = challenge.wrap_bio(incoming, outgoing, server_side=True)
    try:
        probe.do_handshake()
    except ssl.SSLWantReadError:
        return probe.selected_alpn_protocol() == CHALLENGE_PROTOCOL if outgoing.pending else None
    except ssl.SSLError:
        return False  # The real handshake will say why.
    return False
