"""The identity parts on a real database, with a clock that stands still and a bus that remembers: no sockets, no process."""

from __future__ import annotations

from pathlib import Path

from securechat.auth.confirmation import Confirmation
from securechat.auth.factors import FactorService
from securechat.auth.jwt_handler import JWTHandler
from securechat.auth.manager import AuthManager
from securechat.auth.passkey_check import PasskeyCheck
from securechat.auth.passkeys import WebAuthn
from securechat.auth.passwords import Passwords
from securechat.auth.rate_limiter import RateLimiter
from securechat.auth.second_factor import SecondFactor
from securechat.auth.throttle import Throttle
from securechat.auth.tickets import Tickets
from securechat.crypto.key_provider import FileKeys
from securechat.domain import commands as c
from securechat.domain.accounts import Principal, Role, User
from securechat.domain.ids import new_id
from securechat.domain.secret import Secret
from securechat.server.config import DEFAULT_RATES
from securechat.store.accounts import SqlAccounts
from securechat.store.factors import SqlFactors
from securechat.store.keys import KeyStore
from securechat.store.migrate import migrate
from securechat.store.oauth import SqlOAuth
from securechat.store.sealing import Secrets
from securechat.store.sqlite import SqliteDatabase
from support.fakes import ManualClock, RecordingBus
from support.running import PASSWORD

URL = "http://localhost:8080"
HERE = "192.0.2.1"


class Identity:
    """Everything that says who somebody is."""

    def __init__(self, folder: Path) -> None:
        migrate(folder / "test.db")
        self.folder = folder
        self.database = SqliteDatabase(folder / "test.db")
        self.clock = ManualClock()
        self.bus = RecordingBus()
        self.roles: set[str] = set()
        self.idle_days = 90
        self.accounts = SqlAccounts(self.database)
        self.store = SqlFactors(self.database)
        self.passwords = Passwords(time_cost=1, memory_kib=64)
        self.limiter = RateLimiter({})
        self.throttle = Throttle(lambda: DEFAULT_RATES)
        self.keys = KeyStore(self.database, FileKeys(folder), self.clock)
        self.box = Secrets(self.keys)
        self.tokens = JWTHandler(folder / "keys.json", now=self.now)
        self.second_factor = SecondFactor(self.store, self.box, self.throttle, self.clock, lambda: self.roles)
        self.auth = self.new_auth()
        self.tickets = Tickets(self.box, self.clock)
        self.webauthn = WebAuthn(lambda: URL, lambda: [URL])
        self.passkeys = PasskeyCheck(self.store, self.accounts, self.tickets, self.webauthn, self.clock)
        self.confirmation = Confirmation(self.store, self.accounts, self.auth, self.second_factor, self.passkeys, self.clock)
        self.factors = FactorService(
            self.store, self.accounts, self.auth, self.second_factor, self.confirmation, self.passkeys, self.webauthn,
            self.tickets, self.limiter, self.clock, lambda: "Acme", SqlOAuth(self.database).count_ways_in,
        )  # fmt: skip

    async def open(self) -> Identity:
        """Make the keys that seal secrets."""
        await self.keys.unlock()
        return self

    def new_auth(self) -> AuthManager:
        """Return the manager as it is after a restart."""
        return AuthManager(
            self.accounts, self.bus, self.tokens, self.passwords, self.limiter, self.throttle, self.second_factor, b"k" * 32,
            self.clock, new_id, lambda: self.idle_days,
        )  # fmt: skip

    @property
    def now(self) -> float:
        return self.clock.now_ms() / 1_000

    async def user(self, name: str, role: Role = Role.MEMBER) -> User:
        user = User(id=new_id("usr"), username=name, display_name=name.title(), role=role)
        await self.accounts.create_user(user, await self.passwords.hash(Secret(PASSWORD)), self.clock.now_ms())
        return user

    async def log_in(self, name: str, *, password: str = PASSWORD, code: str = "", address: str = HERE) -> c.Session:
        return await self.auth.log_in(c.SessionCreate(username=name, password=Secret(password), code=Secret(code)), address)

    async def who(self, session: c.Session) -> Principal:
        return await self.auth.authenticate(Secret(session.access_token))

    async def close(self) -> None:
        self.passwords.close()
        await self.database.close()
