"""The token file: private, never half written, and safe for several commands at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from hearth.client.credentials import CredentialsFile, Login, Saved
from hearth.core.errors import InvalidInput

SERVER = "http://127.0.0.1:8080"


def login(token: str) -> Login:
    return Login("ann@example.com", "ann", token, "refresh", 1000.0)


def save(file: CredentialsFile, saved: Saved) -> None:
    with file.locked():
        file.write(saved)


def test_what_is_written_is_read_and_nobody_else_can(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path / "a" / "hearth")
    assert file.read() == Saved()
    saved = Saved().with_login(SERVER, login("t")).with_server(SERVER)
    save(file, saved)
    assert file.read() == saved
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in file.path.parent.iterdir()) == [
        "credentials.json",
        "credentials.lock",
    ]
    save(file, saved.without_login(SERVER))
    assert file.read() == Saved(server=SERVER)


def test_a_file_that_others_may_read_is_tightened(tmp_path: Path) -> None:
    file = CredentialsFile(tmp_path)
    save(file, Saved())
    file.path.chmod(0o644)
    file.read()
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"logins": {"x": {}}}', '{"logins": []}', "\ufeff{"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    file = CredentialsFile(tmp_path)
    file.path.write_text(text)
    with pytest.raises(InvalidInput, match=r"credentials\.json"):
        file.read()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CredentialsFile(tmp_path)
    save(file, Saved(server="http://old"))

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json, "dump", fail)
    with pytest.raises(OSError, match="space"):
        save(file, Saved(server="http://new"))
    assert file.read().server == "http://old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["credentials.json", "credentials.lock"]


def _count(folder: Path, times: int) -> None:
    file = CredentialsFile(folder)
    for _ in range(times):
        with file.locked():
            saved = file.read()
            number = int(saved.logins[SERVER].access_token) + 1
            file.write(saved.with_login(SERVER, login(str(number))))


def test_processes_that_change_it_at_once_lose_nothing(tmp_path: Path) -> None:
    save(CredentialsFile(tmp_path), Saved().with_login(SERVER, login("0")))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count, args=(tmp_path, 20)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
        worker.close()
    assert CredentialsFile(tmp_path).read().logins[SERVER].access_token == "60"
