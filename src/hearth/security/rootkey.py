"""The root key: 32 random bytes in one file, and everything else derived from it.

Derivation is HKDF-SHA256 (RFC 5869) with a label per purpose, so that no two purposes ever share a key and a new
purpose needs no new secret to back up.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hearth.core.errors import StartupFailed
from hearth.core.finding import RUN, Finding, State, found_by, ok

NAME = "root key"
SIZE = 32  # bytes
_PREFIX = b"hearth/1/"  # in front of every label: a version of the scheme itself


@dataclass(frozen=True, slots=True)
class RootKey:
    """The key; never logged, never shown. Hand it over by file descriptor, not by argument or environment."""

    secret: bytes = field(repr=False)

    def derive(self, label: str, length: int = SIZE) -> bytes:
        """A key of `length` bytes for one purpose (``access-token``, later ``secrets``, ``cookie``)."""
        return HKDF(algorithm=SHA256(), length=length, salt=None, info=_PREFIX + label.encode()).derive(
            self.secret
        )

    def fingerprint(self) -> str:
        """What the database remembers of it: tells two keys apart and nothing else."""
        return self.derive("fingerprint", 16).hex()

    def token_key(self) -> Ed25519PrivateKey:
        """What access tokens are signed with. Control alone needs it."""
        return Ed25519PrivateKey.from_private_bytes(self.derive("access-token"))

    def token_public_key(self) -> bytes:
        """32 bytes with which access tokens are verified: all that a shard gets."""
        return self.token_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def load_root_key(path: Path, *, create: bool = True) -> RootKey:
    """Read the root key, making it where there is none.

    Args:
        create: False for a file that somebody named (``HEARTH_KEY_FILE``): a mistyped name must not become a new key.

    Raises:
        StartupFailed: it is missing, of the wrong size, or open to others.
    """
    try:
        if create and not path.exists():
            _create(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _read(path)


def look(path: Path, *, create: bool) -> tuple[Finding, str | None]:
    """What `load_root_key` would say, and the fingerprint of the key that is there; nothing is made."""
    try:
        if create and not path.exists():
            return ok(NAME, f"{path} is made at the first start"), None
        key = _read(path)
    except OSError as error:
        return found_by(_unreadable(path, error), NAME, State.REFUSED), None
    except StartupFailed as error:
        return found_by(error, NAME, State.REFUSED), None
    return ok(NAME, str(path)), key.fingerprint()


def _read(path: Path) -> RootKey:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            secret = file.read(SIZE + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise StartupFailed(
            f"the root key {path} can be read by others", hint=f"{RUN}chmod 600 {shlex.quote(str(path))}"
        )
    return _checked(secret, str(path))


def _unreadable(path: Path, error: OSError) -> StartupFailed:
    return StartupFailed(
        f"the root key {path} can't be read: {error.strerror}",
        hint="put it back, owned by who runs Hearth, mode 0600",
    )


def read_root_key(descriptor: int) -> RootKey:
    """Read the root key from a descriptor that the supervisor handed over, and close it. Raises StartupFailed."""
    with open(descriptor, "rb") as file:
        return _checked(file.read(SIZE + 1), "handed over")


def _checked(secret: bytes, where: str) -> RootKey:
    if len(secret) != SIZE:
        raise StartupFailed(
            f"the root key {where} has not {SIZE} bytes",
            hint="restore it: without it stored secrets can't be read",
        )
    return RootKey(secret)


def _create(path: Path) -> None:
    """Write a new key, whole or not at all; of two processes that try, one wins and both read the winner's."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    partial = Path(name)
    try:
        os.write(descriptor, os.urandom(SIZE))
        os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        os.close(descriptor)
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
