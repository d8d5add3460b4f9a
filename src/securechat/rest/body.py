"""The body of a request, with limits that hold before anything is kept: size, time, no encoding."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request

from securechat.errors import InvalidInput, TooLarge, UnknownEncoding

BODY_S: Final = 15.0
"""A body is there within this time after its head."""


async def read_body(request: Request, most: int) -> bytes:
    """Return the body, of at most so many bytes.

    Raises:
        UnknownEncoding: It is compressed; nothing of it was read.
        TooLarge: It is larger; no more than that was kept.
        InvalidInput: It took too long.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnknownEncoding
    size, chunks = 0, []
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise TooLarge(f"The body has at most {most} bytes.")
                chunks.append(chunk)
    except TimeoutError:
        raise InvalidInput("The body took too long.") from None
    return b"".join(chunks)
