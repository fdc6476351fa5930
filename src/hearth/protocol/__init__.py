"""Codecs without I/O: bytes in, frames out. Shared by the host side, the keeper and the tests."""
