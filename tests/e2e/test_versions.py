"""Versions on a real platform: what is kept, a rollback under load, a disk that fills up."""

from __future__ import annotations

import errno
import http.client
import json
import os
import sqlite3
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hearth.core.limits import DISK_FREE_MIN, MIB
from tests.e2e.platform import HEARTH, Platform, until

pytestmark = pytest.mark.root


def saying(text: str) -> dict[str, str]:
    return {"handler.py": f"def handler(event, context):\n    return {text!r}\n"}


def numbers(platform: Platform, name: str) -> list[int]:
    return [version["number"] for version in json.loads(platform.cli("versions", name, "--json"))]


def test_the_last_ten_are_kept_and_the_files_of_others_are_gone(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    for number in range(1, 21):
        platform.deploy("kept", "python", saying(str(number)))
        if number == 2:
            platform.cli("alias", "set", "kept", "first", "2")
    until(lambda: numbers(platform, "kept") == [*range(20, 10, -1), 2], 20, "old versions are not removed")
    assert platform.call("/fn/ann/kept").body == b"20"
    assert "removed versions" in platform.log()
    assert platform.stop() == 0
    for folder in ("sources", "artifacts"):
        found = list((platform.data / folder).iterdir())
        assert len(found) == 20  # they stay a while: an instance may come up this moment
        for blob in found:
            os.utime(blob, (1, 1))
    (platform.data / "tmp" / "gone-half-removed").mkdir()
    platform.start(int(platform.url.rpartition(":")[2]))
    for folder in ("sources", "artifacts"):
        until(lambda folder=folder: len(list((platform.data / folder).iterdir())) == 11, 20, "files stay")
    assert not (platform.data / "tmp" / "gone-half-removed").exists()
    assert platform.call("/fn/ann/kept").body == b"20"
    platform.cli("rollback", "kept", "--to", "2")
    until(lambda: platform.call("/fn/ann/kept").body == b"2", 20, "the oldest kept one does not answer")
    error = platform.cli("rollback", "kept", "--to", "3", code=4)
    assert "not kept any more" in error


class Callers:
    """Threads that call one URL on connections that are kept; every answer is counted."""

    def __init__(self, platform: Platform, path: str, count: int) -> None:
        self.answers: Counter[tuple[int, bytes]] = Counter()
        self.errors: list[str] = []
        self._address = platform.url.removeprefix("http://")
        self._path = path
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        with closing(http.client.HTTPConnection(self._address, timeout=30)) as connection:
            while not self._stop.is_set():
                try:
                    connection.request("GET", self._path)
                    answer = connection.getresponse()
                    key = answer.status, answer.read()
                except (OSError, http.client.HTTPException) as error:
                    self.errors.append(repr(error))
                    return
                with self._lock:
                    self.answers[key] += 1

    def seen(self, key: tuple[int, bytes], more_than: int) -> None:
        until(
            lambda: self.errors or self.answers[key] > more_than, 30, f"{key} does not come: {self.answers}"
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_no_request_fails_while_traffic_is_moved(platform: Platform) -> None:
    for number in (1, 2, 3):
        platform.deploy("moved", "python", saying(f"v{number}"))
    callers = Callers(platform, "/fn/ann/moved", 8)
    try:
        callers.seen((200, b"v3"), 100)
        for _ in range(3):
            said = platform.cli("rollback", "moved")
            assert "Version 2 of ann/moved is live again (it was version 3)" in said
            callers.seen((200, b"v2"), callers.answers[200, b"v2"] + 20)
            platform.cli("alias", "set", "moved", "live", "1=50,3=50")
            callers.seen((200, b"v1"), callers.answers[200, b"v1"] + 20)
            platform.cli("rollback", "moved", "--to", "3")
            callers.seen((200, b"v3"), callers.answers[200, b"v3"] + 20)
    finally:
        callers.stop()
    assert callers.errors == []
    assert {status for status, _ in callers.answers} == {200}


def test_aliases_are_for_members(platform: Platform) -> None:
    platform.deploy("named", "python", saying("old"))
    platform.deploy("named", "python", saying("new"))
    platform.cli("alias", "set", "named", "before", "1")
    key = platform.cli("keys", "create", "--name", "k", "--function", "ann/named", "--secret-only").strip()

    def before() -> bytes:
        return platform.call("/fn/ann/named", X_Hearth_Alias="before", X_Hearth_Key=key).body

    until(lambda: before() == b"old", 10, "the alias is not known")
    assert platform.call("/fn/ann/named").body == b"new"
    assert platform.call("/fn/ann/named", X_Hearth_Alias="before").status == 403


class Disk:
    """A small file system of its own, and a file that takes the room that is left."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._filler = place / "filler"

    def free(self) -> int:
        state = os.statvfs(self.place)
        return state.f_bavail * state.f_frsize

    def leave(self, room: int) -> None:
        """Take all but `room` bytes."""
        until(lambda: self._taken(room), what=f"{self.free()} bytes can't be taken")

    def _taken(self, room: int) -> bool:
        more = self.free() - room
        if more <= 0:
            return True
        try:
            with self._filler.open("ab") as filler:
                os.posix_fallocate(filler.fileno(), filler.tell(), more)
        except OSError as error:
            # All or nothing, and the platform writes too: some of it was taken meanwhile.
            if error.errno != errno.ENOSPC:
                raise
        return False

    def clear(self) -> None:
        os.truncate(self._filler, 0)


@pytest.fixture
def small_disk(own_platform: Platform) -> Iterator[Disk]:
    own_platform.data.mkdir(mode=0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_FREE_MIN + 512 * MIB},mode=755", "tmpfs"]
    subprocess.run([*mount, str(own_platform.data)], check=True)
    try:
        yield Disk(own_platform.data)
    finally:
        if own_platform.process is not None and own_platform.process.poll() is None:
            own_platform.stop()
        subprocess.run(["umount", "-l", str(own_platform.data)], check=True)


# In the middle of it when the disk is full, however slow this machine is; nothing of its own is unwritten then.
WAITING_BUILD = 'sync -f .; echo it waits; until [ -e "$SRC/go-on" ]; do sleep 0.1; done; head -c 60000000 /dev/urandom > data'


def test_a_disk_that_fills_up(own_platform: Platform, small_disk: Disk) -> None:
    platform = own_platform.start()
    platform.register()
    platform.deploy("calm", "python", saying("calm"))
    assert platform.call("/fn/ann/calm").body == b"calm"

    small_disk.leave(DISK_FREE_MIN - MIB)  # nearly full: refused before anything is taken in
    folder = platform.function("late", "python", saying("late"), auth="public")
    error = platform.cli("deploy", str(folder), code=1)
    assert "the server's disk is nearly full" in error and "512MiB have to be free" in error
    assert list((platform.data / "tmp").glob("stage-*")) == []

    small_disk.clear()
    folder = platform.function(
        "large", "python", saying("large"), auth="public",
        build={"command": WAITING_BUILD},
    )  # fmt: skip
    deploy = subprocess.Popen(
        [HEARTH, "deploy", str(folder)], env=platform.environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert deploy.stdout is not None
        said = ""
        while "it waits\n" not in said:
            line = deploy.stdout.readline()
            assert line, f"no build begins: {said}"
            said += line
        small_disk.leave(0)  # really full, in the middle of it
        processes = {kind: platform.pids(kind) for kind in ("keeper", "control", "shard", "resolver")}
        for _ in range(50):
            assert platform.call("/fn/ann/calm").body == b"calm"
        until(lambda: "disk of the database is full" in platform.log(), 30, "nobody says it")
        assert platform.call("/fn/ann/calm").body == b"calm"
        small_disk.clear()
        for source in (platform.data / "sources").iterdir():
            (source / "go-on").touch()
        said += deploy.communicate(timeout=90)[0]  # it goes on where there is room
    finally:
        deploy.kill()
        deploy.communicate()
    assert deploy.returncode == 0, said
    assert platform.call("/fn/ann/large").body == b"large"
    assert platform.call("/fn/ann/calm").body == b"calm"
    assert processes == {kind: platform.pids(kind) for kind in processes}  # nobody has crashed
    until(lambda: "no longer: " in platform.log(), 20, "nobody says that it is over")
    assert platform.stop() == 0
    with closing(sqlite3.connect(platform.data / "hearth.db")) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
