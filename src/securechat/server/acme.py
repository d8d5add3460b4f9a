"""Certificates for real domains by ACME (RFC 8555), through certbot's library: an account, an order, an answer, a certificate."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import requests
from acme import challenges, client, crypto_util, errors, messages
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from securechat import __version__
from securechat.files import write_private
from securechat.server.challenges import Challenges, MakeContext
from securechat.server.renewal import AcmeError

log = logging.getLogger(__name__)

ChallengeType = Literal["tls-alpn-01", "http-01"]
ACCOUNTS: Final = "acme-account.json"
REQUEST_S: Final = 15
"""Each request to the authority is answered within this time."""
ORDER_S: Final = 180.0
"""An order is done within this time."""
_TEXT_MAX: Final = 500

for _name in ("acme", "urllib3"):
    logging.getLogger(_name).setLevel(logging.INFO)  # At DEBUG they write down every request.


@challenges.ChallengeResponse.register
class _TlsAlpn01Response(challenges.KeyAuthorizationChallengeResponse):
    typ = "tls-alpn-01"


@challenges.Challenge.register
class _TlsAlpn01(challenges.KeyAuthorizationChallenge):
    """The library has the key authorisation but no longer this kind of challenge."""

    response_cls = _TlsAlpn01Response
    typ = "tls-alpn-01"

    def validation(self, account_key: JWK, **_unused: Any) -> str:
        return self.key_authorization(account_key)


class _Account(msgspec.Struct):
    key: str
    uri: str


class AcmeClient:
    """Gets certificates. Blocks: for a thread of its own.

    Args:
        folder: Where the account's key is kept, with mode 0600.
        directory: URL of the authority.
        email: For its notices; may be empty.
        authority_ca: CA file for the connection to the authority itself; empty: those that the system trusts.
        kind: Which challenge is answered.
        answers: Where the answers are put.
        make: Makes contexts for TLS-ALPN-01.
    """

    def __init__(
        self,
        folder: Path,
        directory: str,
        email: str,
        authority_ca: str,
        kind: ChallengeType,
        answers: Challenges,
        make: MakeContext,
    ) -> None:
        self._path = folder / ACCOUNTS
        self._directory = directory
        self._email = email
        self._ca = authority_ca
        self._kind = kind
        self._answers = answers
        self._make = make

    def obtain(self, names: Sequence[str]) -> bytes:
        """Order a certificate with a new key and return both in one PEM, key first.

        Raises:
            AcmeError: There is none, with the reason.
        """
        with _explained():
            authority = self._log_in()
            key = _new_key()
            order = authority.new_order(crypto_util.make_csr(key, domains=list(names)))
            deadline = dt.datetime.now() + dt.timedelta(seconds=ORDER_S)  # noqa: DTZ005 - the library compares with local time
            try:
                for authorization in order.authorizations:
                    self._answer(authority, authorization)
                order = authority.poll_authorizations(order, deadline)
            finally:
                self._answers.clear()
            order = authority.finalize_order(order, deadline)
            return key + order.fullchain_pem.encode()

    def _answer(self, authority: client.ClientV2, authorization: messages.AuthorizationResource) -> None:
        body = authorization.body
        if body.status == messages.STATUS_VALID:
            return  # Checked for an earlier order.
        name = body.identifier.value
        found = [offered for offered in body.challenges if getattr(offered.chall, "typ", "") == self._kind]
        if not found:
            offered = ", ".join(sorted(getattr(each.chall, "typ", "others") for each in body.challenges))
            raise AcmeError(f"The authority does not offer {self._kind} for {name}, but {offered}: see acme_challenge.")
        response, validation = found[0].response_and_validation(authority.net.key)
        if self._kind == "http-01":
            self._answers.tokens = self._answers.tokens | {found[0].chall.encode("token"): validation}
        else:
            self._answers.add_certificate(name, validation, self._make)
        authority.answer_challenge(found[0], response)

    def _log_in(self) -> client.ClientV2:
        """Find or make our account at this authority."""
        accounts = self._read_accounts()
        known = accounts.get(self._directory)
        key_pem = known.key.encode() if known else _new_key()
        key = JWKEC.load(key_pem)
        net = client.ClientNetwork(key, alg=ES256, user_agent=f"SecureChat/{__version__}", timeout=REQUEST_S)
        if self._ca:
            net.verify_ssl = self._ca  # type: ignore[assignment]  # requests takes a file here
        authority = client.ClientV2(client.ClientV2.get_directory(self._directory, net), net)
        if known is not None:
            net.account = messages.RegistrationResource(uri=known.uri, body=messages.Registration())
            return authority
        wish = messages.NewRegistration.from_data(email=self._email or None, terms_of_service_agreed=True)
        try:
            uri = authority.new_account(wish).uri
        except errors.ConflictError as conflict:
            uri = conflict.location
            net.account = messages.RegistrationResource(uri=uri, body=messages.Registration())
        accounts[self._directory] = _Account(key_pem.decode(), uri)
        write_private(self._path, msgspec.json.encode(accounts))
        log.info("acme account made", extra={"directory": self._directory})
        return authority

    def _read_accounts(self) -> dict[str, _Account]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Account])
        except FileNotFoundError:
            return {}
        except msgspec.DecodeError as error:
            raise AcmeError(f"{self._path} is damaged; move it away to make a new account.") from error


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn whatever the library raises into one line."""
    try:
        yield
    except messages.Error as error:
        limited = error.code == "rateLimited"
        raise AcmeError(
            _clean(f"The authority says {error.code or 'no'}: {error.detail or error}"), rate_limited=limited
        ) from error
    except errors.ValidationError as error:
        raise AcmeError(_clean(_why_not_ours(error))) from error
    except errors.TimeoutError as error:
        raise AcmeError(f"The authority did not decide within {ORDER_S:.0f} s.") from error
    except (errors.Error, JoseError, ValueError) as error:
        raise AcmeError(_clean(f"The authority's answer cannot be used: {error}")) from error
    except requests.RequestException as error:
        raise AcmeError(_clean(f"The authority cannot be reached: {error}")) from error
    except OSError as error:
        raise AcmeError(str(error)) from error


def _why_not_ours(error: errors.ValidationError) -> str:
    found = [
        f"{each.body.identifier.value}: {challenge.error.detail}"
        for each in error.failed_authzrs
        for challenge in each.body.challenges
        if challenge.error is not None
    ]
    return "The authority could not check " + "; ".join(found)


def _clean(text: str) -> str:
    """Make one printable line of what came from outside."""
    return "".join(character if character.isprintable() else " " for character in text)[:_TEXT_MAX]


def _new_key() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
