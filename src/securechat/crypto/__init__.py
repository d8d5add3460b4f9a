"""Bytes in, bytes out: keys, signatures, ciphers. No I/O, no loop; randomness only from the operating system."""
