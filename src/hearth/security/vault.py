"""Secrets at rest: AES-256-GCM (NIST SP 800-38D) with a key of their own, derived from the root key.

What is sealed is bound to what it is: namespace, function and name are authenticated with it, so that a row's value that
was copied into another row can't be opened. The nonce is 96 random bits, which is good for 2^32 values under one key (SP 800-38D, section 8.3).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hearth.core.errors import PlatformError, StartupFailed
from hearth.core.records import SealedSecret
from hearth.security.rootkey import SIZE, RootKey

LABEL = "secrets"
_FORM = b"\x01"  # of what is stored: this byte, the nonce, ciphertext and tag
_NONCE = 12  # bytes


class Vault:
    """`ports.secrets.Sealer` and `ports.secrets.Opener`.

    Args:
        keys: of 32 bytes each; the first seals, all open (several while a root key is replaced).
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self._newest = key_id(keys[0])

    def seal(self, namespace_id: str, function_id: str | None, name: str, value: bytes) -> SealedSecret:
        """See the port."""
        nonce = os.urandom(_NONCE)
        about = _identity(self._newest, namespace_id, function_id, name)
        return SealedSecret(
            name=name,
            namespace_id=namespace_id,
            function_id=function_id,
            key_id=self._newest,
            sealed=_FORM + nonce + self._keys[self._newest].encrypt(nonce, value, about),
            size=len(value),
            text=_is_text(value),
        )

    def open(self, secret: SealedSecret) -> bytes:
        """See the port."""
        key = self._keys.get(secret.key_id)
        if key is None:
            raise _unreadable(secret, "it was sealed with another root key")
        form, nonce, rest = secret.sealed[:1], secret.sealed[1 : 1 + _NONCE], secret.sealed[1 + _NONCE :]
        if form != _FORM or len(nonce) < _NONCE:
            raise _unreadable(secret, "it is damaged")
        try:
            return key.decrypt(
                nonce, rest, _identity(secret.key_id, secret.namespace_id, secret.function_id, secret.name)
            )
        except InvalidTag:
            raise _unreadable(secret, "it was changed, or is another secret's") from None


def key_id(key: bytes) -> str:
    """What tells keys apart and says nothing of them: 16 hexadecimal digits."""
    return hashlib.sha256(b"hearth/key-id/" + key).hexdigest()[:16]


def key_descriptor(root: RootKey) -> int:
    """A descriptor from which shards read the secrets' key, and which nobody can write to (memfd_create(2)).

    They get this key alone: with the root key they could sign tokens.
    """
    fd = os.memfd_create("hearth-secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, root.derive(LABEL))
    fcntl.fcntl(
        fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL,
    )
    return fd


def read_key(descriptor: int) -> bytes:
    """The key that `key_descriptor` holds; closes it. Raises StartupFailed."""
    try:
        key = os.pread(descriptor, SIZE + 1, 0)  # its offset is shared with whoever read it before
    finally:
        os.close(descriptor)
    if len(key) != SIZE:
        raise StartupFailed(
            "the key of the secrets was not handed over whole", hint="restart the platform as a whole"
        )
    return key


def _identity(key: str, namespace_id: str, function_id: str | None, name: str) -> bytes:
    """Associated data. None of its parts can have a NUL."""
    return "\0".join(("hearth/secret/1", key, namespace_id, function_id or "", name)).encode()


def _is_text(value: bytes) -> bool:
    """Whether it may stand in an environment, in every language alike."""
    try:
        return "\0" not in value.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _unreadable(secret: SealedSecret, why: str) -> PlatformError:
    return PlatformError(
        f"the secret {secret.name} can't be decrypted: {why}",
        hint=f"set it again: hearth secrets set {secret.name}",
    )
