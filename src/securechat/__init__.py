"""SecureChat: a self-hosted, secure, real-time chat server, and its SDK.

`from securechat import Bot, ChatClient` loads the SDK only; the server's code is loaded by `securechat serve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from securechat import webhooks
    from securechat.sdk.bot import Bot, Context
    from securechat.sdk.client import ChatClient

__all__ = ["Bot", "ChatClient", "Context", "__version__", "webhooks"]

_HOMES = {"Bot": "securechat.sdk.bot", "Context": "securechat.sdk.bot", "ChatClient": "securechat.sdk.client"}


def __getattr__(name: str) -> Any:
    """Load the SDK when it is first asked for."""
    from importlib import import_module  # noqa: PLC0415 - the point of this function

    if name == "webhooks":
        return import_module("securechat.webhooks")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
