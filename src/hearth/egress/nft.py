"""nftables commands: by libnftables in this process (0.3 ms a transaction), or by the `nft` program (5 ms).

A Python virtual environment does not see Debian's own binding, so the library is called by ctypes.
Source: libnftables(3), libnftables-json(5).
"""

from __future__ import annotations

import ctypes
import json
import subprocess
from typing import Any, Protocol, cast

_LIBRARY = "libnftables.so.1"
_STATELESS, _JSON = 1 << 1, 1 << 4
_TIMEOUT = 20.0  # seconds


class NftError(Exception):
    """nftables refused a transaction; none of it was done."""


class NftMissing(NftError):
    """Neither the library nor the program is on this machine."""


class Nft(Protocol):
    """Somebody who speaks to nftables. Used by one thread at a time."""

    def run(self, commands: str) -> None:
        """Do all these commands, or none. Raises NftError."""
        ...

    def show(self, what: str) -> list[dict[str, Any]]:
        """The objects that ``list WHAT`` shows, as libnftables-json(5) writes them. Raises NftError."""
        ...

    def close(self) -> None: ...


class Library:
    """libnftables. Raises NftMissing when it isn't there, or can't write JSON."""

    def __init__(self) -> None:
        try:
            self._lib = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise NftMissing(f"{_LIBRARY} is not there") from error
        lib = self._lib
        for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
            getattr(lib, name).argtypes, getattr(lib, name).restype = [ctypes.c_void_p], ctypes.c_char_p
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
            getattr(lib, name).argtypes = [ctypes.c_void_p]
        lib.nft_ctx_new.argtypes, lib.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
        lib.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        lib.nft_ctx_output_set_flags.restype = None
        lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._context: int | None = lib.nft_ctx_new(0)
        if not self._context:
            raise NftMissing("libnftables has no memory")
        if lib.nft_ctx_buffer_output(self._context) or lib.nft_ctx_buffer_error(self._context):
            self.close()
            raise NftMissing("libnftables has no memory")

    def run(self, commands: str) -> None:
        self._call(commands, 0)

    def show(self, what: str) -> list[dict[str, Any]]:
        return _objects(self._call(f"list {what}", _JSON | _STATELESS))

    def close(self) -> None:
        if self._context:
            self._lib.nft_ctx_free(self._context)
            self._context = None

    def _call(self, commands: str, flags: int) -> bytes:
        if not self._context:
            raise NftError("this is closed")
        self._lib.nft_ctx_output_set_flags(self._context, flags)
        failed = self._lib.nft_run_cmd_from_buffer(self._context, commands.encode())
        said = self._lib.nft_ctx_get_error_buffer(self._context) or b""
        output = self._lib.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            raise NftError(_first_line(said))
        return cast(bytes, output)


class Program:
    """``nft -f -``, where the library isn't there. The process lives for milliseconds and is waited for."""

    def __init__(self, path: str = "/usr/sbin/nft") -> None:
        self._path = path
        self._call(["-v"], "")

    def run(self, commands: str) -> None:
        self._call(["-f", "-"], commands)

    def show(self, what: str) -> list[dict[str, Any]]:
        return _objects(self._call(["-j", "-s", "list", *what.split()], ""))

    def close(self) -> None:
        """Nothing is held."""

    def _call(self, arguments: list[str], commands: str) -> bytes:
        try:
            done = subprocess.run(
                [self._path, *arguments],
                input=commands.encode(),
                capture_output=True,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                timeout=_TIMEOUT,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise NftMissing(f"{self._path} is not there") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NftError(str(error)) from error
        if done.returncode:
            raise NftError(_first_line(done.stderr))
        return done.stdout


def find() -> Nft:
    """The library, else the program.

    Raises:
        NftMissing: neither is there.
    """
    try:
        return Library()
    except NftMissing:
        try:
            return Program()
        except NftError as error:
            raise NftMissing("nftables is not installed") from error


def _objects(output: bytes) -> list[dict[str, Any]]:
    try:
        found = json.loads(output)["nftables"] if output.strip() else []
    except (ValueError, KeyError, TypeError) as error:
        raise NftError("nftables answered something that is not JSON") from error
    return cast(list[dict[str, Any]], found)


def _first_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else "nftables refused, and did not say why"
