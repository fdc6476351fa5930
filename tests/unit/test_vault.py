"""Secrets at rest: only the right key opens them, and only as what they were sealed as."""

from __future__ import annotations

import dataclasses
import os

import pytest

from hearth.core.errors import PlatformError, StartupFailed
from hearth.core.records import SealedSecret
from hearth.security.rootkey import RootKey
from hearth.security.vault import LABEL, Vault, key_descriptor, key_id, read_key

KEY = RootKey(b"s" * 32).derive(LABEL)
VAULT = Vault([KEY])
SEALED = VAULT.seal("ns_1", "fn_1", "TOKEN", b"the value")


def refused(vault: Vault, secret: SealedSecret, why: str) -> None:
    with pytest.raises(PlatformError, match=why) as error:
        vault.open(secret)
    assert "the value" not in str(error.value) and error.value.hint is not None


def test_what_is_sealed_is_opened() -> None:
    for value in (b"x", b"the value", os.urandom(65536)):
        assert VAULT.open(VAULT.seal("ns_1", None, "TOKEN", value)) == value
    assert VAULT.open(SEALED) == b"the value"
    assert (SEALED.size, SEALED.text, SEALED.key_id) == (9, True, key_id(KEY))


def test_nothing_shows_the_value() -> None:
    assert b"the value" not in SEALED.sealed and "the value" not in repr(SEALED)
    assert KEY not in SEALED.sealed and KEY.hex()[:8] not in repr(SEALED)


def test_equal_values_look_different() -> None:
    other = VAULT.seal("ns_1", "fn_1", "TOKEN", b"the value")
    assert other.sealed != SEALED.sealed and other.sealed[1:13] != SEALED.sealed[1:13]


def test_every_byte_counts() -> None:
    for at in range(len(SEALED.sealed)):
        changed = bytearray(SEALED.sealed)
        changed[at] ^= 1
        refused(VAULT, dataclasses.replace(SEALED, sealed=bytes(changed)), "can't be decrypted")
    for length in range(len(SEALED.sealed)):
        refused(VAULT, dataclasses.replace(SEALED, sealed=SEALED.sealed[:length]), "can't be decrypted")


@pytest.mark.parametrize(
    "as_what",
    [
        {"name": "OTHER"},
        {"namespace_id": "ns_2"},
        {"function_id": "fn_2"},
        {"function_id": None},
        {"function_id": None, "name": "fn_1\0TOKEN"},
    ],
)
def test_it_can_not_pass_for_another(as_what: dict[str, str | None]) -> None:
    """Somebody who can write the database copies a value into a row whose functions print what they get."""
    refused(VAULT, dataclasses.replace(SEALED, **as_what), "another secret's")  # type: ignore[arg-type]


def test_another_root_key_does_not_open_it() -> None:
    other = Vault([RootKey(b"t" * 32).derive(LABEL)])
    refused(other, SEALED, "another root key")
    forged = dataclasses.replace(SEALED, key_id=other.seal("n", None, "A", b"x").key_id)
    refused(other, forged, "it was changed")


def test_old_keys_open_while_a_key_is_replaced() -> None:
    new = RootKey(b"t" * 32).derive(LABEL)
    both = Vault([new, KEY])
    assert both.open(SEALED) == b"the value"
    assert both.seal("ns_1", None, "A", b"x").key_id == key_id(new)


def test_what_was_sealed_by_earlier_versions_is_opened() -> None:
    """Golden: another scheme here means that nobody's secrets can be read after an upgrade."""
    sealed = bytes.fromhex("01000102030405060708090a0b06867cbba51c9c6abd5854d53f19a9e263055e0c4b2014829f")
    kept = SealedSecret("TOKEN", "ns_1", "fn_1", "1ea8ea63e77c0a88", sealed, 9, True)
    assert VAULT.open(kept) == b"the value"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"plain", True),
        ("Grüße\n".encode(), True),
        (b"a\0b", False),
        (b"\xff\xfe", False),
        (b"\xed\xa0\x80", False),
    ],
)
def test_what_may_stand_in_an_environment(value: bytes, text: bool) -> None:
    assert VAULT.seal("ns_1", None, "A", value).text is text


def test_the_shards_key_is_handed_over_read_only() -> None:
    root = RootKey(b"s" * 32)
    fd = key_descriptor(root)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x" * 32, 0)
        for _ in range(2):  # also to the shard that replaces one
            assert read_key(os.dup(fd)) == KEY != root.secret
    finally:
        os.close(fd)
    with pytest.raises(StartupFailed):
        read_key(os.memfd_create("empty"))
