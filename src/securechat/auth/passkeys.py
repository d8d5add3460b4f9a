"""Passkeys: WebAuthn behind three functions. The library stays in this file."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from securechat.domain.accounts import User
from securechat.errors import Conflict, Forbidden


@dataclass(frozen=True, slots=True)
class NewPasskey:
    """What a browser made.

    Attributes:
        id: The credential's id, base64url.
        public_key: In COSE.
        sign_count: How often it signed.
    """

    id: str
    public_key: bytes
    sign_count: int


def load() -> None:
    """Load the library, which takes a moment: in a thread, once the server is up, so that no request waits for it."""
    import webauthn  # noqa: F401, PLC0415 - see above


class WebAuthn:
    """One relying party: this server under the name in its public URL.

    The library loads when it is first needed, or by `load`: a start need not wait for it.

    Args:
        public_url: What people type to get here; its host is the relying party's id.
        origins: Where the page may have come from.
    """

    def __init__(self, public_url: Callable[[], str], origins: Callable[[], Sequence[str]]) -> None:
        self._public_url = public_url
        self._origins = origins

    def creation(self, user: User, server_name: str, challenge: bytes, known: Sequence[str]) -> dict[str, Any]:
        """Return the options for making a passkey that needs no username to log in.

        Args:
            user: Whose it will be.
            server_name: What the browser shows.
            challenge: 32 random bytes.
            known: Ids of this user's passkeys: the same authenticator makes no second one.

        Raises:
            Conflict: The server has no name that passkeys can be bound to.
        """
        import webauthn  # noqa: PLC0415 - see above
        from webauthn.helpers import base64url_to_bytes, options_to_json_dict, structs  # noqa: PLC0415

        options = webauthn.generate_registration_options(
            rp_id=self._rp_id(),
            rp_name=server_name,
            user_name=user.username,
            user_id=user.id.encode(),
            user_display_name=user.display_name,
            challenge=challenge,
            authenticator_selection=structs.AuthenticatorSelectionCriteria(
                resident_key=structs.ResidentKeyRequirement.REQUIRED,
                user_verification=structs.UserVerificationRequirement.REQUIRED,
            ),
            exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=base64url_to_bytes(each)) for each in known],
        )
        return options_to_json_dict(options)

    def created(self, credential: dict[str, Any], challenge: bytes) -> NewPasskey:
        """Check what the browser made.

        Raises:
            Forbidden: It is not for this challenge, this server or these origins, or nobody was verified.
        """
        import webauthn  # noqa: PLC0415 - see above
        from webauthn.helpers import bytes_to_base64url  # noqa: PLC0415
        from webauthn.helpers.exceptions import WebAuthnException  # noqa: PLC0415

        try:
            found = webauthn.verify_registration_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id(),
                expected_origin=list(self._origins()),
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError) as error:
            raise Forbidden("The passkey could not be verified. Begin again.") from error
        return NewPasskey(bytes_to_base64url(found.credential_id), found.credential_public_key, found.sign_count)

    def request(self, challenge: bytes) -> dict[str, Any]:
        """Return the options for using a passkey; no account is named, so nothing is told of any.

        Raises:
            Conflict: As in `creation`.
        """
        import webauthn  # noqa: PLC0415 - see above
        from webauthn.helpers import options_to_json_dict, structs  # noqa: PLC0415

        options = webauthn.generate_authentication_options(
            rp_id=self._rp_id(), challenge=challenge, user_verification=structs.UserVerificationRequirement.REQUIRED
        )
        return options_to_json_dict(options)

    def used(self, credential: dict[str, Any], challenge: bytes, public_key: bytes, sign_count: int) -> int:
        """Check that a known passkey signed this challenge; return how often it signed until now.

        Raises:
            Forbidden: It did not, or its counter went back: it was copied.
        """
        import webauthn  # noqa: PLC0415 - see above
        from webauthn.helpers.exceptions import WebAuthnException  # noqa: PLC0415

        try:
            found = webauthn.verify_authentication_response(
                credential=credential,
                expected_challenge=challenge,
                expected_rp_id=self._rp_id(),
                expected_origin=list(self._origins()),
                credential_public_key=public_key,
                credential_current_sign_count=sign_count,
                require_user_verification=True,
            )
        except (WebAuthnException, ValueError, TypeError, KeyError) as error:
            raise Forbidden("The passkey could not be verified. Begin again.") from error
        return int(found.new_sign_count)

    def _rp_id(self) -> str:
        host = urlsplit(self._public_url()).hostname or ""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return host
        raise Conflict("Passkeys need a server with a name; this one is reached by its address. Set public_url.")
