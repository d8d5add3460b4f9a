"""The client library: asyncio, typed, no code of the server."""
