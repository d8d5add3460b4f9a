"""ConfigManager: one JSON file, environment, flags; checked as a whole, explained, read again while running.

Precedence: flag > `SECURECHAT_<KEY>` > file > default. A mistake anywhere means nothing is taken; all mistakes are told at once.
A setting of the type `Secret` is shown as `***` everywhere, and may be read from the file that `SECURECHAT_<KEY>_FILE` names.
"""

from __future__ import annotations

import difflib
import os
import re
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from securechat.auth.addresses import host_of, networks
from securechat.auth.oidc import ProviderConfig
from securechat.auth.rate_limiter import Rate
from securechat.bus.addresses import mistake_of
from securechat.crypto.key_provider import ENVIRONMENT as KEYS
from securechat.domain.choices import in_words
from securechat.domain.secret import Secret, decode_hook
from securechat.errors import Shutdown

PREFIX: Final = "SECURECHAT_"
Roles = list[Literal["owner", "admin", "member"]]
Port = Annotated[int, Meta(ge=0, le=65_535)]


def _setting(default: Any, text: str, *, reload: bool = False) -> Any:
    """Document a setting; `reload` says that a change takes effect without a restart."""
    _HELP[len(_HELP)] = (text, reload)
    if isinstance(default, list | dict):
        return msgspec.field(default_factory=default.copy)
    return msgspec.field(default=default)


_HELP: Final[dict[int, tuple[str, bool]]] = {}

DEFAULT_RATES: Final = {
    "message": Rate(burst=60, per_s=15),
    "command": Rate(burst=300, per_s=60),
    "login.address": Rate(burst=30, per_s=0.5),
    "login.account": Rate(burst=6, per_s=0.1),
    "login.code": Rate(burst=5, per_s=0.05),
    "consent.code": Rate(burst=10, per_s=0.1),
    "register.address": Rate(burst=20, per_s=0.2),
    "refresh.address": Rate(burst=100, per_s=5),
    "handshake.address": Rate(burst=600, per_s=20),
    "room": Rate(burst=600, per_s=150),
    "mention_all": Rate(burst=3, per_s=1 / 60),
    "address": Rate(burst=3_000, per_s=600),
    "connect.address": Rate(burst=600, per_s=30),
    "connect.account": Rate(burst=60, per_s=2),
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting, its default and what it is for (`securechat config explain`)."""

    data_dir: str = _setting("./securechat-data", "Folder with everything that outlives the process.")
    database_url: Secret | None = _setting(
        None, "postgresql://USER:PASSWORD@HOST:PORT/DATABASE; default: SQLite in the data folder. See docs/howto/postgresql.md."
    )
    database_shards: dict[str, Secret] = _setting(
        {}, 'Further databases that rooms and users may live in: {"NAME": "postgresql://…"}. See docs/howto/shards.md.'
    )
    database_connections: Annotated[int, Meta(ge=3, le=1_000)] = _setting(
        10, "Connections to PostgreSQL, at most; never fewer than 5."
    )
    redis_url: Secret | None = _setting(
        None,
        "redis://[USER:PASSWORD@]HOST:PORT, rediss:// with TLS, redis+cluster:// or rediss+cluster://HOST:PORT,HOST:PORT for a"
        " cluster: for several servers on one PostgreSQL. See docs/howto/several-servers.md.",
    )
    bus_key: Secret | None = _setting(
        None, "What proves that a message on Redis is of one of our servers; the same on all: 32 characters or more, random."
    )
    host: str = _setting("127.0.0.1", "Address to listen on with TLS; 0.0.0.0 for all.")
    port: Port = _setting(8443, "Port for the web client, REST and the gateway, with TLS 1.3.")
    http_port: Port = _setting(8080, "The same without TLS on loopback only, for a first look in a browser; 0 turns it off.")
    admin_listen: str = _setting("", "HOST:PORT for /metrics and deep health, besides the admin socket; empty turns it off.")
    public_url: str = _setting("", "What people type to get here; links begin with it. Default: the listener.", reload=True)
    origins: list[str] = _setting([], "Origins of browsers that may use the gateway besides the server's own.", reload=True)
    registration: Literal["invite", "open"] = _setting("invite", "Who may register: with an invitation, or everybody.", reload=True)
    second_factor_roles: Roles = _setting(
        [], "Roles that must have a second factor: owner, admin, member. Who has none is led to set one up.", reload=True
    )
    oidc: list[ProviderConfig] = _setting(
        [], "Providers whose accounts open this server (OpenID Connect); see docs/howto/sign-in-with-a-provider.md."
    )
    token_key_max_age_s: Annotated[int, Meta(ge=60)] = _setting(
        2_592_000, "Age in seconds at which the key of access tokens is rotated. Nobody is signed out by it.", reload=True
    )
    session_idle_days: Annotated[int, Meta(ge=0, le=36_500)] = _setting(
        90, "Days after which a session ends that nobody used; 0: it never does.", reload=True
    )
    session_layer: Literal["required", "preferred", "off"] = _setting(
        "preferred", "Sealed sessions inside TLS: for everybody, for clients that can, or for nobody.", reload=True
    )
    hosts: list[str] = _setting(
        [],
        "Names under which clients reach this server, besides public_url and tls_domains; empty without those: any.",
        reload=True,
    )
    identity_bits: Literal[2048, 3072] = _setting(2048, "Size of new RSA identity keys.")
    session_key_s: Annotated[int, Meta(ge=60, le=1_800)] = _setting(1_800, "Seconds after which a session's keys end.", reload=True)
    session_key_records: Annotated[int, Meta(ge=1_024, le=1_048_576)] = _setting(
        1_048_576, "Records after which they end; new ones are made after half of them.", reload=True
    )
    tls_cert: str = _setting("", "Certificate chain in PEM; default: one of the server's own CA. A changed file is taken at once.")
    tls_key: str = _setting("", "Its key in PEM; others must not be able to read it.")
    tls_minimum: Literal["1.3", "1.2"] = _setting("1.3", "Oldest TLS version; 1.2 only with ECDHE and AEAD ciphers.")
    tls_domains: list[str] = _setting([], "Real domains for which a certificate is got and renewed by ACME.")
    acme_agree: bool = _setting(False, "That you agree to the terms of service of the ACME authority.")  # noqa: FBT003
    acme_email: str = _setting("", "Where the ACME authority may write to; may be empty.")
    acme_challenge: Literal["tls-alpn-01", "http-01"] = _setting(
        "tls-alpn-01", "How a domain is checked: on port 443, or on port 80 (then redirect_port is needed)."
    )
    acme_directory: str = _setting("https://acme-v02.api.letsencrypt.org/directory", "The ACME authority; default: Let's Encrypt.")
    acme_ca: str = _setting("", "CA file for the connection to an ACME authority of your own.")
    redirect_port: Port = _setting(0, "Port without TLS on host that answers http-01 and sends everybody to https; 0 turns it off.")
    hsts_days: Annotated[int, Meta(ge=0, le=730)] = _setting(
        365, "How long browsers remember to use HTTPS only, for real domains; 0: not at all.", reload=True
    )
    max_connections: Annotated[int, Meta(ge=1)] = _setting(10_000, "WebSocket connections; more are refused with 503.", reload=True)
    max_connections_address: Annotated[int, Meta(ge=1)] = _setting(
        1_000, "The same of one source: an IPv4 address or an IPv6 /64; more are refused with 429.", reload=True
    )
    max_connections_account: Annotated[int, Meta(ge=1)] = _setting(
        32, "The same of one account; then the oldest of the same device is replaced, else the new one refused.", reload=True
    )
    max_http_connections: Annotated[int, Meta(ge=1)] = _setting(
        5_000, "Connections that are no WebSocket; for one more, the one that is idle longest is closed.", reload=True
    )
    max_http_connections_address: Annotated[int, Meta(ge=1)] = _setting(1_000, "The same of one source.", reload=True)
    max_pending: Annotated[int, Meta(ge=1)] = _setting(
        500, "Connections whose TLS handshake, request head or auth is not there yet; more are ended at once.", reload=True
    )
    max_pending_address: Annotated[int, Meta(ge=1)] = _setting(50, "The same of one source.", reload=True)
    trusted_proxies: list[str] = _setting(
        [], "Addresses or CIDR blocks of proxies in front of the server: only they may say whose request it is.", reload=True
    )
    proxy_header: Literal["x-forwarded-for", "forwarded", "proxy-protocol"] = _setting(
        "x-forwarded-for",
        "Where they say it: in this header, all others are ignored; or by the PROXY protocol, when they pass TLS on.",
        reload=True,
    )
    rates: dict[str, Rate] = _setting(
        DEFAULT_RATES, 'Token buckets, for example {"message": {"burst": 60, "per_s": 15}}.', reload=True
    )
    hooks_allow_networks: list[str] = _setting(
        [],
        "Addresses or CIDR blocks that subscriptions of rooms may send to besides the public Internet, on any port and also without"
        " TLS. See docs/howto/send-events-elsewhere.md.",
        reload=True,
    )
    drain_s: Annotated[float, Meta(ge=0.1, le=300)] = _setting(4.0, "Seconds to stop in: clients are told to come back within it.")
    drain_window_s: Annotated[float, Meta(ge=0, le=60)] = _setting(
        10.0, "Seconds besides, when other servers go on: people are sent to them in batches, 20 a second or faster."
    )
    at_rest: Literal["on", "off"] = _setting(
        "off", "Encrypt the texts of messages in the database; a change converts what is there."
    )
    at_rest_keys: str = _setting(
        "",
        "Folder with the key files of storage, best on another disk or a secrets mount; empty for keys/ in the data folder,"
        " insecure-env for SECURECHAT_KEK_<number> in the environment.",
    )
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"] = _setting(
        "INFO", "Least level that is logged.", reload=True
    )
    log_style: Literal["auto", "json", "console"] = _setting("auto", "Form of standard error; auto: readable on a terminal.")
    log_file: bool = _setting(True, "Also log JSON to logs/securechat.log in the data folder, rotated and compressed.")  # noqa: FBT003
    log_max_bytes: Annotated[int, Meta(ge=65_536)] = _setting(16_777_216, "Size at which the log file is rotated.")
    log_keep: Annotated[int, Meta(ge=1)] = _setting(14, "Rotated log files that are kept.")
    audit_folder: str = _setting("", "Folder, best on another machine, that also gets each checkpoint of the audit log.")
    audit_checkpoint_s: Annotated[float, Meta(ge=1, le=86_400)] = _setting(
        60.0, "Seconds between checkpoints of the audit log; also each 1,000 records.", reload=True
    )
    audit_keep_days: Annotated[int, Meta(ge=0, le=36_500)] = _setting(
        365, "Days after which records of the audit log are pruned, with a signed statement; 0 keeps all.", reload=True
    )


FIELDS: Final = {info.name: info for info in msgspec.structs.fields(Settings)}
HELP: Final = dict(zip(FIELDS, _HELP.values(), strict=True))
RELOADABLE: Final = frozenset(name for name, (_, reload) in HELP.items() if reload)


class ConfigError(Shutdown):
    """The configuration cannot be taken. `line` holds all mistakes, one per line."""


class ConfigManager:
    """The settings of a running server.

    Args:
        path: The file; None for none.
        flags: From the command line.
        environ: The environment.

    Attributes:
        settings: What holds now.
        origin: Key → where its value comes from.
    """

    def __init__(self, path: Path | None, flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
        self.path = path
        self._flags = {key: value for key, value in flags.items() if value is not None}
        self._environ = environ
        self._listeners: list[Callable[[Settings], None]] = []
        self.settings, self.origin = self._load()

    def told(self) -> dict[str, Any]:
        """Return what holds now and where each value comes from, for whoever operates the server."""
        return {"settings": self.settings, "origin": self.origin}

    def on_change(self, listener: Callable[[Settings], None]) -> None:
        """Call `listener` after each successful reload."""
        self._listeners.append(listener)

    def reload(self) -> tuple[list[str], list[str]]:
        """Read everything again; return (keys that changed, keys that wait for a restart).

        Raises:
            ConfigError: Something is wrong; the settings stay as they are.
        """
        new, origin = self._load()
        different = [name for name in FIELDS if getattr(new, name) != getattr(self.settings, name)]
        changed = [name for name in different if name in RELOADABLE]
        self.settings = msgspec.structs.replace(self.settings, **{name: getattr(new, name) for name in changed})
        self.origin = origin
        for listener in self._listeners:
            listener(self.settings)
        return changed, [name for name in different if name not in RELOADABLE]

    def _load(self) -> tuple[Settings, dict[str, str]]:
        mistakes: list[str] = []
        values: dict[str, Any] = {}
        origin: dict[str, str] = {}
        for source, found in (
            (str(self.path), self._read_file(mistakes)),
            ("environment", self._read_environment(mistakes)),
            ("flag", dict(self._flags)),
        ):
            for key, value in found.items():
                if key not in FIELDS:
                    near = [self._named(each, source) for each in difflib.get_close_matches(key, FIELDS, 1)]
                    mistakes.append(
                        f"{self._named(key, source)}: unknown key in {source}" + (f", did you mean {near[0]}?" if near else "")
                    )
                    continue
                taken, wrong = _take(key, value, strict=source not in {"environment", "flag"})
                place = self._named(key, source) if source == "environment" else source
                mistakes += [f"{mistake} (from {place})" for mistake in wrong]
                if not wrong or taken is not None:  # What is right in it may contradict something else: that is told, too.
                    values[key] = taken
                    origin[key] = source
        if "rates" in values:
            values["rates"] = {**DEFAULT_RATES, **values["rates"]}
        settings = Settings(**values)
        mistakes += _contradictions(settings)
        if mistakes:
            raise ConfigError("The configuration has mistakes:\n" + "\n".join(f"  {mistake}" for mistake in mistakes))
        return settings, origin

    def _named(self, key: str, source: str) -> str:
        """Return what a key is called where it is read: a variable as it stands in the environment, or would."""
        if source != "environment":
            return key
        names = (name for name in self._environ if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() == key)
        return next(names, PREFIX + key.upper())

    def _read_file(self, mistakes: list[str]) -> dict[str, Any]:
        if self.path is None:
            return {}
        try:
            found = msgspec.json.decode(self.path.read_bytes())
        except OSError as error:
            mistakes.append(f"{self.path}: {error.strerror}")
            return {}
        except msgspec.DecodeError as error:
            mistakes.append(f"{self.path}: not JSON: {error}")
            return {}
        except UnicodeDecodeError:
            mistakes.append(f"{self.path}: not UTF-8")
            return {}
        if not isinstance(found, dict):
            mistakes.append(f"{self.path}: not a JSON object")
            return {}
        return found

    def _read_environment(self, mistakes: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, text in self._environ.items():
            key = name.removeprefix(PREFIX).lower()
            if not name.startswith(PREFIX) or key in _NOT_SETTINGS or name.startswith(KEYS):
                continue
            if _is_secret(key.removesuffix("_file")) and key.endswith("_file"):
                key = key.removesuffix("_file")
                try:
                    held = Path(text).read_text().rstrip("\r\n")
                    found[key] = Secret(held) if FIELDS[key].type != dict[str, Secret] else msgspec.json.decode(held)
                except msgspec.DecodeError:
                    mistakes.append(f"{key}: {text} is not JSON (from {name})")
                except (OSError, UnicodeDecodeError) as error:
                    mistakes.append(
                        f"{key}: {text} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'} (from {name})"
                    )
                continue
            if key in FIELDS and FIELDS[key].type in {list[str], list[ProviderConfig], Roles, dict[str, Rate], dict[str, Secret]}:
                try:
                    found[key] = msgspec.json.decode(text)
                except msgspec.DecodeError:
                    mistakes.append(f"{key}: {name} is not JSON")
            else:
                found[key] = text
        return found


_NOT_SETTINGS: Final = frozenset({"config", "url", "token", "profile", "ca", "password", "seal", "pin"})
"""Environment names of the clients and of the file itself."""


def _is_secret(key: str) -> bool:
    """Return whether a setting holds a secret, and so may come from a file that `SECURECHAT_<KEY>_FILE` names."""
    return key in FIELDS and FIELDS[key].type in {Secret, Secret | None, dict[str, Secret]}


def _contradictions(settings: Settings) -> list[str]:
    found = []
    if bool(settings.tls_cert) != bool(settings.tls_key):
        found.append("tls_key: tls_cert and tls_key belong together")
    url = settings.database_url.reveal() if settings.database_url else ""
    if url and not url.startswith(("postgresql://", "postgres://")):
        found.append("database_url: postgresql://USER:PASSWORD@HOST:PORT/DATABASE is wanted")
    found += _redis_mistakes(settings)
    wrong = sorted(
        name for name, place in settings.database_shards.items() if not place.reveal().startswith(("postgresql://", "postgres://"))
    )
    found += [f"database_shards: {name}: postgresql://USER:PASSWORD@HOST:PORT/DATABASE is wanted" for name in wrong]
    if settings.database_shards and not url:
        found.append("database_shards: shards stand beside a database in database_url")
    for key in ("tls_cert", "tls_key", "acme_ca"):
        path = getattr(settings, key)
        if path and not Path(path).is_file():
            found.append(f"{key}: {path} is not a file")
    ports = [settings.port, settings.http_port, settings.redirect_port]
    for index, key in ((1, "http_port"), (2, "redirect_port")):
        if ports[index] and ports[index] in ports[:index]:
            found.append(f"{key}: the same as {'port' if ports[index] == ports[0] else 'http_port'}")
    found += [f"oidc: {mistake}" for provider in settings.oidc if (mistake := provider.mistake())]
    if len({provider.id for provider in settings.oidc}) < len(settings.oidc):
        found.append("oidc: two providers have the same id")
    if len({provider.issuer for provider in settings.oidc}) < len(settings.oidc):
        found.append("oidc: two providers have the same issuer")
    if host_of(settings.public_url.partition("://")[2].partition("/")[0]) is None:
        found.append(f"public_url: {settings.public_url} names no host")
    else:
        found += _domain_mistakes(settings)
    if settings.admin_listen and not settings.admin_listen.rpartition(":")[2].isdecimal():
        found.append("admin_listen: HOST:PORT is wanted")
    if settings.public_url and not settings.public_url.startswith(("https://", "http://")):
        found.append("public_url: begins with https:// or http://")
    found += _network_mistakes(settings)
    found += [
        f"rates.{name}: burst and per_s are above 0" for name, rate in settings.rates.items() if min(rate.burst, rate.per_s) <= 0
    ]
    return found


def _take(key: str, value: Any, *, strict: bool) -> tuple[Any, list[str]]:
    """Return a value as its setting wants it, and what is wrong with it. Where each has a name, each is looked at by itself."""
    kind = FIELDS[key].type
    if not isinstance(value, dict) or get_origin(kind) is not dict:
        return _convert(key, value, kind, strict=strict)
    taken, mistakes = {}, []
    for name, each in value.items():
        if key == "rates" and name not in DEFAULT_RATES:
            near = difflib.get_close_matches(name, DEFAULT_RATES, 1)
            mistakes.append(f"rates.{name}: unknown bucket" + (f", did you mean {near[0]}?" if near else ""))
            continue
        converted, wrong = _convert(f"{key}.{name}", each, get_args(kind)[1], strict=strict)
        mistakes += wrong
        if not wrong:
            taken[name] = converted
    return taken, mistakes


def _convert(where: str, value: Any, kind: Any, *, strict: bool) -> tuple[Any, list[str]]:
    try:
        return msgspec.convert(value, kind, strict=strict, dec_hook=decode_hook), []
    except msgspec.ValidationError as error:
        words, inside = in_words(str(error), kind)
        return None, [f"{where}{'' if inside[:1] in {'', '['} else '.'}{inside}: {words}"]


def _network_mistakes(settings: Settings) -> list[str]:
    found = []
    for key in ("trusted_proxies", "hooks_allow_networks"):
        for text in getattr(settings, key):
            try:
                networks((text,))
            except ValueError:
                found.append(f"{key}: {text} is no address and no CIDR block")
    return found


def _redis_mistakes(settings: Settings) -> list[str]:
    """Check what belongs together for several servers."""
    if settings.redis_url is None:
        return []
    found = []
    if mistake := mistake_of(settings.redis_url.reveal()):
        found.append(f"redis_url: {mistake}")
    if settings.database_url is None:
        found.append("redis_url: several servers need database_url, too")
    if settings.bus_key is None:
        found.append("bus_key: redis_url needs it; make one with: openssl rand -hex 32")
    elif len(settings.bus_key.reveal()) < BUS_KEY_MIN:
        found.append(f"bus_key: at least {BUS_KEY_MIN} characters")
    return found


def _domain_mistakes(settings: Settings) -> list[str]:
    """Check what belongs together for a certificate by ACME."""
    found = []
    for name in settings.tls_domains:
        if name.startswith("*."):
            found.append(f"tls_domains: {name} is a wildcard, which neither challenge can prove; use tls_cert for it")
        elif not _DOMAIN.fullmatch(name):
            found.append(f"tls_domains: {name} is not a domain in lower case, like chat.example.org")
    if not settings.tls_domains:
        return found
    if len(settings.tls_domains) > DOMAINS_MAX:
        found.append(f"tls_domains: at most {DOMAINS_MAX} in one certificate")
    if settings.tls_cert:
        found.append("tls_domains: not together with tls_cert")
    if not settings.acme_agree:
        found.append("acme_agree: set it to true when you agree to the terms of the ACME authority; tls_domains needs it")
    if not settings.acme_directory.startswith("https://"):
        found.append("acme_directory: begins with https://")
    if settings.acme_challenge == "http-01" and not settings.redirect_port:
        found.append("redirect_port: http-01 is answered there; set it to 80")
    host = urllib.parse.urlsplit(settings.public_url).hostname
    if host and host not in settings.tls_domains:
        found.append(f"public_url: {host} is not in tls_domains")
    return found


BUS_KEY_MIN: Final = 32
DOMAINS_MAX: Final = 100
_DOMAIN: Final = re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+(?![0-9]+$)[a-z0-9-]{2,63}")
