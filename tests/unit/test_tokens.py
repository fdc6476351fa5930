"""Access tokens: one algorithm, every claim there, nothing believed that is not signed."""

from __future__ import annotations

import base64
import json

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.core.ids import new_id
from hearth.security.rootkey import RootKey
from hearth.security.tokens import AccessTokens, Claims, TokenMint, hash_token, looks_like_key

ROOT = RootKey(b"r" * 32)
NOW = 1_700_000_000_000
USER, SESSION = new_id("user", NOW, b"u" * 10), new_id("session", NOW, b"s" * 10)
MINT, READER = TokenMint(ROOT), AccessTokens([ROOT.token_public_key()])


def claims(**changes: object) -> dict[str, object]:
    good = {"iss": "hearth", "aud": "hearth", "iat": 1_700_000_000, "exp": 1_700_000_900, "jti": "x"}
    return {k: v for k, v in (good | {"sub": USER, "sid": SESSION} | changes).items() if v is not None}


def signed(payload: dict[str, object], root: RootKey = ROOT, kid: str | None = None) -> str:
    kid = (
        kid
        if kid is not None
        else jwt.get_unverified_header(TokenMint(root).access(USER, SESSION, NOW)[0])["kid"]
    )
    return jwt.encode(payload, root.token_key(), algorithm="EdDSA", headers={"kid": kid})


def test_a_token_is_read_until_it_expires() -> None:
    token, seconds = MINT.access(USER, SESSION, NOW)
    assert seconds == 900
    assert READER.read(token, NOW) == Claims(USER, SESSION, NOW + 900_000)
    assert READER.read(token, NOW + 899_999) is not None
    assert READER.read(token, NOW + 900_000) is None
    assert (
        READER.read(signed(claims()), NOW) is not None
    )  # so that what is refused below is refused for its reason


@pytest.mark.parametrize("name", ["iss", "aud", "iat", "exp", "jti", "sub", "sid"])
def test_every_claim_must_be_there(name: str) -> None:
    assert READER.read(signed(claims(**{name: None})), NOW) is None


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"exp": "1900000000"},
        {"exp": 1.9e9},
        {"sid": 5},
        {"sid": "ses_x"},
        {"sub": "usr_x"},
        {"sub": SESSION},
    ],
)
def test_claims_must_make_sense(change: dict[str, object]) -> None:
    assert READER.read(signed(claims(**change)), NOW) is None


def test_another_key_is_refused_under_either_name() -> None:
    other = RootKey(b"o" * 32)
    mine = jwt.get_unverified_header(MINT.access(USER, SESSION, NOW)[0])["kid"]
    assert READER.read(signed(claims(), other), NOW) is None
    assert READER.read(signed(claims(), other, kid=mine), NOW) is None
    both = AccessTokens([ROOT.token_public_key(), other.token_public_key()])  # while keys are replaced
    assert both.read(signed(claims(), other), NOW) is not None


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256"])
def test_no_other_algorithm(algorithm: str) -> None:
    """Also the classic one: HMAC with the public key as its secret."""
    head = jwt.get_unverified_header(MINT.access(USER, SESSION, NOW)[0]) | {"alg": algorithm}

    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    body = part(json.dumps(head).encode()) + b"." + part(json.dumps(claims()).encode())
    secret = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = b"" if algorithm == "none" else secret.sign(body, ROOT.token_public_key())
    assert READER.read((body + b"." + part(signature)).decode(), NOW) is None


@given(
    st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}\.[A-Za-z0-9_-]{0,40}")
)
def test_nonsense_is_refused(text: str) -> None:
    assert READER.read(text, NOW) is None


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_seen(place: int, change: int) -> None:
    token = bytearray(MINT.access(USER, SESSION, NOW)[0].encode())
    place %= len(token) - 1  # of the last character two bits mean nothing
    token[place] ^= change
    assert READER.read(token.decode("latin-1"), NOW) is None


def test_a_huge_token_costs_nothing() -> None:
    assert READER.read(signed(claims(extra="x" * 5000)), NOW) is None


def test_random_tokens() -> None:
    refresh, refresh_hash = MINT.refresh()
    key, key_hash = MINT.key()
    assert refresh.startswith("hr_") and key.startswith("hk_") and len(key) == 3 + 43
    assert hash_token(key) == key_hash == MINT.hash(key) != refresh_hash
    assert MINT.key()[0] != key
    assert looks_like_key(key) and not looks_like_key(refresh) and not looks_like_key(key + "x")
    assert len(hash_token("\ud800")) == 32
