"""Cryptography: bytes in, bytes out. Knows neither rooms nor the database nor the wire."""
