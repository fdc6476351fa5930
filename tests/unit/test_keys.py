"""The root key's file and what is derived from it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from hearth.core.errors import StartupFailed
from hearth.security.rootkey import RootKey, load_root_key, read_root_key


def test_it_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = load_root_key(path)
    assert load_root_key(path) == first and len(first.secret) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_of_many_who_make_it_all_get_one(tmp_path: Path) -> None:
    found: list[RootKey] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_root_key(tmp_path / "key"))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_one_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    load_root_key(path)
    path.chmod(mode)
    with pytest.raises(StartupFailed, match="by others") as refused:
        load_root_key(path)
    assert "chmod 600" in (refused.value.hint or "")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_one_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    with pytest.raises(StartupFailed, match="32 bytes"):
        load_root_key(path)


def test_a_named_one_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(StartupFailed, match="can't be read"):
        load_root_key(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(StartupFailed, match="can't be read"):
        load_root_key(tmp_path / "no" / "folder" / "key")


def test_it_is_handed_over_by_descriptor() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"k" * 32)
    os.close(writing)
    assert read_root_key(reading) == RootKey(b"k" * 32)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(reading)


def test_derived_keys_differ_by_label_and_root() -> None:
    one, other = RootKey(b"1" * 32), RootKey(b"2" * 32)
    keys = {one.derive("a"), one.derive("b"), other.derive("a"), one.derive("a", 16)}
    assert len(keys) == 4 and one.derive("a") == RootKey(b"1" * 32).derive("a")
    assert one.fingerprint() != other.fingerprint() and len(one.fingerprint()) == 32
    assert one.token_public_key() != other.token_public_key()


def test_derivation_never_changes() -> None:
    """Golden: another value here means that nobody's tokens and secrets can be read after an upgrade."""
    root = RootKey(bytes(range(32)))
    assert root.fingerprint() == "a4db5736a95307cf513d10e4921ee489"
    assert root.token_public_key().hex() == "dda2c33a983a28198211d50fe0bd045b7d273390578cd6706b2e7b2b627bbba9"


def test_it_is_not_shown() -> None:
    assert "secret" not in repr(RootKey(b"s" * 32)) and "sss" not in repr(RootKey(b"s" * 32))
