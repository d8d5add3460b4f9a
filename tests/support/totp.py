"""Codes of an authenticator app, at a moment at which they are good for a while."""

from __future__ import annotations

import time
from typing import Final

import pyotp

from support.running import wait_until

STEP_S: Final = 30
LEFT_S: Final = 8


def earlier_code(totp: pyotp.TOTP) -> str:
    """Return the code of the step before this one, which is taken until this one ends: so that this one's is still unused.

    Waits for the next step where this one is nearly over.
    """
    wait_until(lambda: STEP_S - time.time() % STEP_S > LEFT_S, "a step that lasts a while")
    return totp.at(int(time.time()) - STEP_S)
