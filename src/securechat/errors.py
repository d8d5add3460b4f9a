"""Every error of SecureChat, as one tree.

A door (gateway, REST, command line) turns a `ChatError` into its own form of answer; nothing else does.

    ChatError
    ├── InvalidInput          400  invalid_input         the words of the request are wrong
    │   ├── TooDeep                too_deep              nested deeper than anything that has a meaning
    │   ├── UnknownEncoding   415  unknown_encoding      a body that is compressed: it is not read
    │   ├── GrantRefused           grant_refused         an app's request for a token; `field` is OAuth's word for it
    │   └── ProtocolViolation      protocol_violation    not even the protocol: the connection ends with 4400
    ├── Unauthorized          401  unauthorized          no, wrong, expired or revoked credentials
    │   └── SecondFactorRequired   second_factor_required the password is right; a code or a passkey is wanted besides
    ├── Forbidden             403  forbidden             known, and not allowed
    │   ├── RegistrationClosed     registration_closed
    │   ├── LinkInvalid            link_invalid          an invitation, setup or reset link that no longer works
    │   ├── ConfirmationRequired   confirmation_required authenticate again before a dangerous change
    │   └── EnrolmentRequired      enrolment_required    the role wants a second factor: set one up before anything else
    ├── NotFound              404  not_found             absent, or not yours to see: the same answer for both
    ├── Conflict              409  conflict              the request contradicts what is stored
    │   ├── CmidConflict           cmid_conflict         the same cmid with another content
    │   └── NameTaken              name_taken
    ├── TooLarge              413  too_large             a whole request; of a field that is too long it says invalid_input
    ├── RateLimited           429  rate_limited          come back after `retry_after_ms`
    ├── Unavailable           503  unavailable           a dependency or a queue is full or down; nothing was stored
    │   └── Draining               draining              this server is stopping; reconnect
    └── Internal              500  internal              our mistake; the log has it under the request id

`SessionRefused` is no answer to a command: the session layer got something that cannot be, and the connection ends.

A `Shutdown` (`SystemExit` with one line for a person) is what the command line raises when it cannot go on.
"""

from __future__ import annotations

from typing import ClassVar


class ChatError(Exception):
    """A refusal that the caller can understand.

    Attributes:
        code: Stable word for programs.
        title: Stable short sentence for people.
        status: HTTP status.
        retryable: Whether the same request may succeed later.
        detail: What was wrong this time. Never says which half of a secret was wrong.
        field: The name of the field that was wrong, or None.
        retry_after_ms: How long to wait, or None.
        about: Id of the account that was asked about, for the audit log; never told to whoever asked.
    """

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on the server"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False

    def __init__(
        self, detail: str | None = None, *, field: str | None = None, retry_after_ms: int | None = None, about: str = ""
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.field = field
        self.retry_after_ms = retry_after_ms
        self.about = about


class InvalidInput(ChatError):
    """The request cannot be understood or breaks a limit."""

    code = "invalid_input"
    title = "The request is not valid"
    status = 400


class TooDeep(InvalidInput):
    """Nested deeper than anything that has a meaning."""

    code = "too_deep"
    title = "Nested too deeply"


class UnknownEncoding(InvalidInput):
    """A request body with a Content-Encoding. It is not read: what it unpacks to has no size that one could know before."""

    code = "unknown_encoding"
    title = "Send the body without an encoding"
    status = 415


class GrantRefused(InvalidInput):
    """An app asks for a token and does not get it. `field` is the word of RFC 6749 and RFC 8628 for the reason: `invalid_grant`."""

    code = "grant_refused"
    title = "The app does not get a token"


class ProtocolViolation(InvalidInput):
    """What came on a connection is not the protocol: the connection ends."""

    code = "protocol_violation"
    title = "This is not the protocol"


class Unauthorized(ChatError):
    """No credentials, or credentials that do not hold (any more)."""

    code = "unauthorized"
    title = "Sign in first"
    status = 401


class SecondFactorRequired(Unauthorized):
    """The password is right, and the account wants a code or a passkey besides; or the code is wrong."""

    code = "second_factor_required"
    title = "A second factor is wanted"


class Forbidden(ChatError):
    """Known and not allowed."""

    code = "forbidden"
    title = "You are not allowed to do this"
    status = 403


class RegistrationClosed(Forbidden):
    """Registration needs an invitation."""

    code = "registration_closed"
    title = "Registration is by invitation"


class LinkInvalid(Forbidden):
    """An invitation, setup or reset link that was used up, expired or never existed."""

    code = "link_invalid"
    title = "This link does not work any more"


class ConfirmationRequired(Forbidden):
    """A dangerous change asks that one authenticated a moment ago: `session.confirm`, then again."""

    code = "confirmation_required"
    title = "Confirm that it is you"


class EnrolmentRequired(Forbidden):
    """The role wants a second factor and the account has none: nothing but setting one up is allowed."""

    code = "enrolment_required"
    title = "Set up a second factor first"


class NotFound(ChatError):
    """Absent or invisible: the answer does not say which."""

    code = "not_found"
    title = "Not found"
    status = 404


class Conflict(ChatError):
    """The request contradicts what is stored."""

    code = "conflict"
    title = "This contradicts what is stored"
    status = 409


class CmidConflict(Conflict):
    """A known cmid came with another content; the first one stands."""

    code = "cmid_conflict"
    title = "This cmid was used before, with other content"


class NameTaken(Conflict):
    """Somebody or something has this name."""

    code = "name_taken"
    title = "This name is taken"


class Ambiguous(Conflict):
    """Several fit. The detail lists them, each with an id that fits alone."""

    code = "ambiguous"
    title = "Several fit"


class TooLarge(ChatError):
    """A whole request larger than what is read of one; a field that is too long is `InvalidInput`."""

    code = "too_large"
    title = "The request is too large"
    status = 413


class RateLimited(ChatError):
    """Too many requests."""

    code = "rate_limited"
    title = "Too many requests"
    status = 429
    retryable = True


class Unavailable(ChatError):
    """A queue is full or a dependency is down. Nothing was stored."""

    code = "unavailable"
    title = "The server cannot do this right now"
    status = 503
    retryable = True


class Draining(Unavailable):
    """The server is stopping."""

    code = "draining"
    title = "The server is restarting"


class Internal(ChatError):
    """Our mistake."""


class SessionRefused(Exception):
    """What came on a sealed connection is not what the peer sealed for us now. The connection ends.

    Attributes:
        code: Close code, the same for everything that could help an attacker to tell cases apart.
        reason: For the log of this side only.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def all_errors() -> list[type[ChatError]]:
    """Every class of the tree but the root, parents first."""
    found: list[type[ChatError]] = []
    waiting: list[type[ChatError]] = [ChatError]
    while waiting:
        children = waiting.pop(0).__subclasses__()
        found += children
        waiting += children
    return found


class Shutdown(SystemExit):
    """The command cannot go on: one line for a person and an exit status.

    Attributes:
        line: What is wrong and what to do about it.
    """

    def __init__(self, line: str, status: int = 2) -> None:
        super().__init__(status)
        self.line = line

    def __str__(self) -> str:
        return self.line
