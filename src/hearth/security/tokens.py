"""Access tokens, refresh tokens and API keys.

Access tokens are JWTs (RFC 7519) signed by Ed25519 (RFC 8037): control signs, everybody else only verifies.
Refresh tokens and API keys are 256 random bits, of which the database has the SHA-256: with that much
randomness a slow hash adds nothing.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hearth.core.ids import is_id
from hearth.core.limits import ACCESS_TOKEN_TTL
from hearth.security.rootkey import RootKey

ISSUER, AUDIENCE = "hearth", "hearth"
KEY_PREFIX, REFRESH_PREFIX = "hk_", "hr_"
_ALGORITHM = "EdDSA"  # the only one: what a token's header claims decides nothing
_REQUIRED = ["iss", "aud", "exp", "iat", "jti", "sub", "sid"]
_SIZE_MAX = 2048  # characters of an access token; ours have about 400
_BODY = 43  # characters of base64url for 32 bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified access token says."""

    user_id: str
    session_id: str
    expires_ms: int


class AccessTokens:
    """Verifies access tokens.

    Args:
        public_keys: raw Ed25519 keys (32 bytes) that are good now; several while a key is replaced.
    """

    def __init__(self, public_keys: Sequence[bytes]) -> None:
        self._keys = {_key_id(key): Ed25519PublicKey.from_public_bytes(key) for key in public_keys}

    def read(self, token: str, now_ms: int) -> Claims | None:
        """The claims of a token that is good at `now_ms`; None for every other, whatever is wrong with it."""
        if len(token) > _SIZE_MAX:
            return None
        try:
            key = self._keys.get(str(jwt.get_unverified_header(token).get("kid")))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=AUDIENCE,
                issuer=ISSUER,
                # time is passed in, so these two are judged below
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError):  # ValueError: broken UTF-8 or base64 deeper inside
            return None
        expires, user_id, session_id = claims["exp"], claims["sub"], claims["sid"]
        if not isinstance(expires, int) or expires * 1000 <= now_ms:
            return None
        if not (isinstance(session_id, str) and is_id("session", session_id) and is_id("user", user_id)):
            return None
        return Claims(user_id, session_id, expires * 1000)


class TokenMint:
    """Makes tokens and keys (`ports.accounts.Tokens`). Control alone has one."""

    def __init__(self, root: RootKey) -> None:
        self._key = root.token_key()
        self._key_id = _key_id(root.token_public_key())

    def access(self, user_id: str, session_id: str, now_ms: int) -> tuple[str, int]:
        """A signed access token and the seconds it lives."""
        issued = now_ms // 1000
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": issued,
            "exp": issued + int(ACCESS_TOKEN_TTL),
            "jti": secrets.token_urlsafe(12),
            "sub": user_id,
            "sid": session_id,
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": self._key_id})
        return token, int(ACCESS_TOKEN_TTL)

    def refresh(self) -> tuple[str, bytes]:
        return _random(REFRESH_PREFIX)

    def key(self) -> tuple[str, bytes]:
        return _random(KEY_PREFIX)

    def hash(self, token: str) -> bytes:
        return hash_token(token)


def hash_token(token: str) -> bytes:
    """What is stored of a refresh token or an API key."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def looks_like_key(token: str) -> bool:
    """Whether a credential has an API key's form, so that nothing else costs a look-up."""
    return token.startswith(KEY_PREFIX) and len(token) == len(KEY_PREFIX) + _BODY


def _random(prefix: str) -> tuple[str, bytes]:
    token = prefix + secrets.token_urlsafe(32)
    return token, hash_token(token)


def _key_id(public_key: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(public_key).digest()[:9]).decode()
