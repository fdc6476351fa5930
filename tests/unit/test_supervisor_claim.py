"""What a start looks at before it touches anything: another platform of the same instance, a key that is missing; and whom it tells."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from hearth.bootstrap.up import _root_key
from hearth.core.errors import StartupFailed
from hearth.core.settings import Settings
from hearth.supervisor.claim import LOCKS, claim, locks_of
from hearth.supervisor.datadir import DataDir
from hearth.supervisor.notify import tell_ready


def test_an_instance_is_held_by_one(tmp_path: Path) -> None:
    locks = tmp_path / "locks"
    held = claim("0123abcd", Path("/srv/one"), locks)
    other = claim("0123abce", Path("/srv/three"), locks)
    assert stat.S_IMODE(locks.stat().st_mode) == 0o700
    with pytest.raises(StartupFailed, match="/srv/two is a copy of /srv/one, which") as refused:
        claim("0123abcd", Path("/srv/two"), locks)
    assert "/srv/two/instance" in (refused.value.hint or "")
    os.close(held)
    again = claim("0123abcd", Path("/srv/two"), locks)
    with pytest.raises(StartupFailed, match="/srv/one is a copy of /srv/two, which"):
        claim("0123abcd", Path("/srv/one"), locks)
    os.close(again)
    os.close(other)


def test_where_the_locks_are(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert locks_of(True, None) == locks_of(True, tmp_path) == LOCKS
    assert locks_of(False, tmp_path) == tmp_path / "hearth-instances"
    assert locks_of(False, None) is None
    assert locks_of(False, tmp_path / "missing") is None
    tmp_path.chmod(0o755)  # somebody else may have put a lock there
    assert locks_of(False, tmp_path) is None


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    opened = DataDir(tmp_path / "data")
    opened.close()
    return opened


def test_a_first_start_makes_the_key_and_a_later_one_does_not(data: DataDir) -> None:
    settings = Settings(data.path)
    made = _root_key(settings, data)
    (data.path / "hearth.db").write_bytes(b"")
    assert _root_key(settings, data) == made
    (data.path / "key").unlink()
    with pytest.raises(StartupFailed, match=f"the root key {data.path}/key is missing") as refused:
        _root_key(settings, data)
    assert "--key-file" in (refused.value.hint or "")
    assert not (data.path / "key").exists()


def test_a_named_key_is_not_made(data: DataDir, tmp_path: Path) -> None:
    with pytest.raises(StartupFailed, match="can't be read"):
        _root_key(Settings(data.path, key_file=tmp_path / "typo"), data)
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told(tmp_path: Path, abstract: bool) -> None:
    address = f"@hearth-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + address[1:] if abstract else address)
        manager.settimeout(5)
        tell_ready(address)
        assert manager.recv(100) == b"READY=1"
    tell_ready(address)  # it has gone
    tell_ready(None)
    tell_ready("")
