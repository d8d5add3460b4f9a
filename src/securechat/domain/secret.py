"""Secret: a password, token, code or key that shows itself to nobody who does not ask for it by name.

`repr`, `str`, `format` and an f-string give `***`; adding, joining, slicing, encoding and pickling do not work. Where the text is
needed, one calls `reveal()`, as late as possible and without a local variable: a traceback that prints locals then has nothing to
print.
"""

from __future__ import annotations

import hmac
from typing import Any, Final, NoReturn

SHOWN: Final = "***"
SECRET_CHARS_MAX: Final = 2_048
"""Characters of a secret that comes from outside."""


class Secret:
    """A text that is not shown.

    Args:
        text: The text.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Do not keep it: hand it to whoever needs it."""
        return self._text

    def __repr__(self) -> str:
        return SHOWN

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return SHOWN

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        """Compare in constant time, and with secrets only."""
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode("utf-8", "surrogatepass"), other._text.encode("utf-8", "surrogatepass"))

    __hash__ = None  # type: ignore[assignment]  # a key of a dictionary is compared early, and ends up in dumps

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not copied, pickled or written by accident; use reveal().")


def decode_hook(kind: type, value: Any) -> Any:
    """Let msgspec's decoders and `convert` make a `Secret` of a string.

    Raises:
        ValueError: Not a string, or too long. The text never says what it was.
        NotImplementedError: Another type that msgspec does not know.
    """
    if kind is not Secret:
        raise NotImplementedError
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")  # noqa: TRY004 - msgspec turns ValueError into its own
    if len(value) > SECRET_CHARS_MAX:
        raise ValueError(f"Expected `str` of length <= {SECRET_CHARS_MAX}")
    return Secret(value)


def encode_hook(value: Any) -> Any:
    """Let a client's encoder send a `Secret` to the server. Only for encoders whose bytes go to the one who has to know.

    Raises:
        NotImplementedError: Another type that msgspec does not know.
    """
    if isinstance(value, Secret):
        return value.reveal()
    raise NotImplementedError


def mask_hook(value: Any) -> Any:
    """Encode a `Secret` as `***`: for everything that is shown.

    Raises:
        NotImplementedError: Another type that msgspec does not know.
    """
    if isinstance(value, Secret):
        return SHOWN
    raise NotImplementedError


def schema_hook(kind: type) -> dict[str, Any]:
    """Describe a `Secret` in a JSON Schema.

    Raises:
        NotImplementedError: Another type that msgspec does not know.
    """
    if kind is not Secret:
        raise NotImplementedError
    return {"type": "string", "maxLength": SECRET_CHARS_MAX}


class MaskedRepr:
    """Mixin of reply structs that carry tokens as text, for the one who asked: their `repr` shows `***` instead.

    Attributes:
        __secrets__: Names of the fields that are not shown.
    """

    __slots__ = ()
    __secrets__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields: tuple[str, ...] = getattr(self, "__struct_fields__", ())
        shown = (f"{name}={SHOWN if name in self.__secrets__ else repr(getattr(self, name))}" for name in fields)
        return f"{type(self).__name__}({', '.join(shown)})"
