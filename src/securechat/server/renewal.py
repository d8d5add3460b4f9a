"""When a certificate is renewed: at two thirds of its life, and after failures with more and more patience."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import random
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from securechat.files import write_private
from securechat.server.certificates import Certificate, CertificateError
from securechat.server.tls import TLSContext, utc_now

log = logging.getLogger(__name__)

ATTEMPTS: Final = "acme-attempts.json"
RENEW_AT: Final = 2 / 3
JITTER: Final = 1 / 60
"""Part of a life by which renewal is moved forward by chance, so that not everybody comes at once: up to 36 h of 90 days."""
FIRST_WAIT: Final = dt.timedelta(minutes=10)
"""After the first failure; doubled with each further one. Public authorities allow five failures an hour."""
LONGEST_WAIT: Final = dt.timedelta(hours=24)
LIMITED_WAIT: Final = dt.timedelta(hours=3)
"""At least, when the authority says that it was asked too often."""
NAP_S: Final = 3_600.0
"""The clock is looked at again after this time: machines sleep and clocks are set."""

_chance: Final = random.SystemRandom().random
T = TypeVar("T")


class AcmeError(Exception):
    """No certificate this time. The text is one line for a person.

    Attributes:
        rate_limited: The authority wants to be left alone for a longer time.
    """

    def __init__(self, line: str, *, rate_limited: bool = False) -> None:
        super().__init__(line)
        self.rate_limited = rate_limited


class Attempts(msgspec.Struct):
    """What is remembered over a restart, so that a server that starts again and again does not ask again and again.

    Attributes:
        failures: In a row.
        not_before: Unix time before which nothing is tried.
        reason: Of the last failure.
    """

    failures: int = 0
    not_before: float = 0.0
    reason: str = ""


class Renewal:
    """Keeps the certificate of an ACME authority fresh.

    Args:
        tls: Whose certificate it is.
        obtain: Gets a new one as PEM with the key; raises `AcmeError`.
        now: The clock.
        chance: A number from 0 to 1.
    """

    def __init__(
        self,
        tls: TLSContext,
        obtain: Callable[[], Awaitable[bytes]],
        now: Callable[[], dt.datetime] = utc_now,
        chance: Callable[[], float] = _chance,
    ) -> None:
        self._tls = tls
        self._obtain = obtain
        self._now = now
        self._chance = chance
        self._path = tls.folder / ATTEMPTS
        self._one_at_a_time = asyncio.Lock()
        self._moved = chance()
        self.attempts = _read(self._path)

    def due_at(self) -> dt.datetime:
        """Return when to try next."""
        patience = dt.datetime.fromtimestamp(self.attempts.not_before, dt.UTC)
        if self._tls.stand_in:
            return max(self._now(), patience)
        return max(renewal_time(self._tls.certificate, self._moved), patience)

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            wait_s = (self.due_at() - self._now()).total_seconds()
            if wait_s <= 0:
                await self.try_once()
            else:
                await asyncio.sleep(min(wait_s, NAP_S))

    async def try_once(self) -> str:
        """Order a certificate now. Returns why there is none, or nothing."""
        async with self._one_at_a_time:
            try:
                pem = await self._obtain()
                self._tls.require_good(pem)
                write_private(self._tls.acme_path, pem)
            except CertificateError as error:
                return self._failed(str(error), limited=False)
            except AcmeError as error:
                return self._failed(str(error), limited=error.rate_limited)
            except OSError as error:
                return self._failed(f"The certificate cannot be written: {error.strerror}.", limited=False)
            if not self._tls.reload():
                return self._failed(self._tls.refused, limited=False)
            self._moved = self._chance()
            self._remember(Attempts())
            return ""

    def _failed(self, reason: str, *, limited: bool) -> str:
        failures = self.attempts.failures + 1
        wait = min(FIRST_WAIT * 2 ** min(failures - 1, 20), LONGEST_WAIT)
        if limited:
            wait = max(wait, LIMITED_WAIT)
        wait *= 0.8 + 0.4 * self._chance()
        again = self._now() + wait
        self._remember(Attempts(failures, again.timestamp(), reason))
        log.error(
            "no new certificate", extra={"reason": reason, "failures": failures, "again_at": again.isoformat(timespec="seconds")}
        )
        return reason

    def _remember(self, attempts: Attempts) -> None:
        self.attempts = attempts
        with contextlib.suppress(OSError):  # A full disk: patience then lasts until the next restart only.
            write_private(self._path, msgspec.json.encode(attempts))


def renewal_time(certificate: Certificate, moved: float) -> dt.datetime:
    """Return when a certificate is renewed: at two thirds of its life, less up to a sixtieth by chance (`moved`: 0 to 1)."""
    life = certificate.not_after - certificate.not_before
    return certificate.not_before + life * (RENEW_AT - JITTER * moved)


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return  # Nobody waits any more.
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # there is a result when there is no error

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as found:  # noqa: BLE001 - it is raised where the work is awaited
            error = found
        with contextlib.suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="acme", daemon=True).start()
    return await outcome


def _read(path: Path) -> Attempts:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Attempts)
    except (OSError, msgspec.DecodeError):
        return Attempts()  # Damaged or missing: nothing is lost but patience.
