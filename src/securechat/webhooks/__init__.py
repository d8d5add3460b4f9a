"""Outgoing webhooks (Standard Webhooks): for receivers, `verify`; for the server, what sends them.

A receiver needs this module only, in any framework: `event = securechat.webhooks.verify(headers, body, secret)`.
"""

from securechat.webhooks.signature import Event, InvalidSignature, verify

__all__ = ["Event", "InvalidSignature", "verify"]
