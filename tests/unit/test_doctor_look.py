"""What `hearth doctor` looks at of a platform: data directory, port, root key, database, room, leftovers' locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest

from hearth.bootstrap import doctor
from hearth.build import look as languages
from hearth.build.discover import Places
from hearth.core import disk
from hearth.core.errors import StartupFailed
from hearth.core.finding import State, not_held, note, ok
from hearth.core.launch import Probe
from hearth.core.limits import DISK_FREE_MIN
from hearth.drivers.common import uids
from hearth.security import rootkey
from hearth.store import look as database
from hearth.store.migrate import newest
from hearth.supervisor import ports, sockets
from hearth.supervisor.datadir import FOLDERS, DataDir
from hearth.supervisor.group import limits_of
from hearth.supervisor.look import Place, look


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# The data directory


def test_one_that_was_never_used_is_not_made(tmp_path: Path) -> None:
    place = look(tmp_path / "a/b/data")
    assert (place.instance, place.running, place.finding.state) == (None, False, State.OK)
    assert everything(tmp_path) == set()


def test_one_that_is_used_is_running_and_its_process_known(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    before = everything(tmp_path)
    try:
        place = look(tmp_path / "data")
        assert (place.instance, place.running, place.finding.state) == (data.instance, True, State.OK)
        assert place.supervisor is None  # this process itself does not count
    finally:
        data.close()
    place = look(tmp_path / "data")
    assert (place.instance, place.running) == (data.instance, False)
    assert everything(tmp_path) == before


def test_a_look_in_the_very_moment_does_not_keep_a_platform_from_its_start(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    with pytest.raises(StartupFailed, match="another hearth runs"):
        DataDir(tmp_path)
    fcntl.flock(looking, fcntl.LOCK_UN)
    DataDir(tmp_path).close()
    os.close(looking)


@pytest.mark.parametrize("kind", ["a file", "a link for a lock", "no instance id", "a link for a folder"])
def test_one_that_cant_be_used_is_refused_as_by_the_start(tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    if kind == "a file":
        data.touch()
    else:
        data.mkdir()
    if kind == "a link for a lock":
        (data / "lock").symlink_to(tmp_path / "elsewhere")
    elif kind == "no instance id":
        (data / "instance").write_text("../x")
    elif kind == "a link for a folder":
        (data / FOLDERS[0]).symlink_to(tmp_path)
    found = look(data).finding
    assert found.state is State.REFUSED
    with pytest.raises(StartupFailed) as told:
        DataDir(data).give_to(os.getuid(), os.getgid())
    if kind != "a file":  # mkdir(2) has another word for it
        assert found.says.partition(";")[0] == told.value.message.partition(";")[0]


def test_one_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    for data in (tmp_path, tmp_path / "new"):
        found = look(data).finding
        assert found.state is State.REFUSED
        assert os.strerror(errno.EACCES) in found.says and "--data-dir" in found.mend


# What the platform that runs holds


def tree(tmp_path: Path, group: str, handed_down: str, kind: str = "cgroup2 cgroup2 rw") -> Path:
    """A /proc in which process 7 is in a group of a tree that hands these controllers down to the group's neighbours."""
    place = tmp_path / "tree" / group.lstrip("/")
    place.mkdir(parents=True)
    (place.parent / "cgroup.subtree_control").write_text(handed_down)
    for folder in ("self", "7"):
        (tmp_path / "proc" / folder).mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text(f"30 23 0:26 / {tmp_path}/tree rw - {kind}\n")
    (tmp_path / "proc/7/cgroup").write_text(f"0::{group}\n")
    return tmp_path / "proc"


def test_the_limits_of_a_platform_that_runs_are_its_groups(tmp_path: Path) -> None:
    proc = tree(tmp_path, "/user.slice/h.service/hearth-platform-0a1b2c3d", "cpu memory\n")
    assert limits_of(7, proc) == {"cpu", "memory"}
    assert limits_of(8, proc) == set()


def test_a_platform_without_a_group_of_its_own_has_none(tmp_path: Path) -> None:
    assert limits_of(7, tree(tmp_path / "a", "/user.slice/session-1.scope", "cpu memory\n")) == set()
    old = tree(tmp_path / "b", "/hearth-platform-0a1b2c3d", "cpu\n", "cgroup cgroup rw,memory")
    assert limits_of(7, old) == set()


NO_GROUP = {name: not_held(name, "no group", "mend") for name in ("memory", "cpu")}


@pytest.mark.parametrize(
    ("running", "states"),
    [
        (frozenset(), {"memory": State.NOT_HELD, "cpu": State.NOT_HELD}),
        (frozenset({"memory"}), {"memory": State.OK, "cpu": State.NOT_HELD}),
    ],
)
def test_what_the_running_platform_holds_counts_where_a_start_from_here_would_not(
    running: frozenset[str], states: dict[str, State], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "limits_of", lambda pid: {7: running}[pid])
    missing = (*NO_GROUP.values(), note("uids", "shared"), not_held("build disks", "of the trial's folder"))
    probe = Probe("bubblewrap", True, frozenset({"pids", "tmp", "network", "seccomp"}), missing)
    place = Place(tmp_path, "0a1b2c3d", True, 7, ok("data directory", ""))
    found = {one.name: one.state for one in doctor._limits(probe, place)}
    held = dict.fromkeys(("pids", "tmp", "network", "seccomp"), State.OK)
    assert found == {**held, **states, "uids": State.NOTE}


# The port


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def test_a_port_that_somebody_uses_and_who(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    found = ports.port_finding("127.0.0.1", port)
    assert found.state is State.REFUSED
    assert f"(process {os.getpid()})" in found.says
    with pytest.raises(StartupFailed) as told:
        sockets.bind_public("127.0.0.1", port, 1)
    assert told.value.message == f"port {port} on 127.0.0.1 is in use"
    assert found.says.startswith(told.value.message) and found.mend in (told.value.hint or "")
    assert ports.port_finding("127.0.0.2", port).state is State.OK
    assert ports.port_finding("0.0.0.0", port).state is State.REFUSED


def test_the_platforms_own_port_and_one_that_is_left(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    own = ports.port_finding("127.0.0.1", port, own=[os.getpid()])
    assert own.state is State.OK and "own" in own.says
    left = ports.port_finding("127.0.0.1", port, left=[os.getpid()])
    assert left.state is State.NOTE and "next start" in left.says


def test_a_free_port_is_free_afterwards() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    assert ports.port_finding("127.0.0.1", port).state is State.OK
    socket.create_server(("127.0.0.1", port)).close()
    assert ports.port_finding("127.0.0.1", 0).state is State.OK


@pytest.mark.parametrize(
    ("number", "command"),
    [
        (errno.EACCES, "sysctl -w net.ipv4.ip_unprivileged_port_start=80"),
        (errno.EADDRNOTAVAIL, "hearth up --host 127.0.0.1"),
        (errno.EADDRINUSE, "hearth up --port 0"),
    ],
)
def test_why_nobody_can_listen(number: int, command: str) -> None:
    found = sockets.unbindable("192.0.2.1", 80, OSError(number, os.strerror(number)))
    assert found.state is State.REFUSED and found.mend.removeprefix("sudo ") == command


def test_what_is_no_address() -> None:
    found = ports.port_finding("no address", 8080)
    assert found.state is State.REFUSED and "not an address" in found.says


def test_tables_of_sockets_are_read(tmp_path: Path) -> None:
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    rest = " 00000000:0000 {} 00000000:00000000 00:00000000 00000000     0        0 {} 1 0 100 0 0 10 0\n"
    if sys.byteorder == "little":
        local, mapped = "0100007F", "0000000000000000FFFF00000100007F"
    else:
        local, mapped = "7F000001", "00000000000000000000FFFF7F000001"
    (tmp_path / "tcp").write_text(
        head + f"   0: {local}:1F90" + rest.format("0A", 11) + f"   1: {local}:1F91" + rest.format("01", 12)
    )
    (tmp_path / "tcp6").write_text(head + f"   0: {mapped}:0050" + rest.format("0A", 13))
    assert ports.listeners(tmp_path) == [
        ports.Listener(ip_address("127.0.0.1"), 8080, 11),
        ports.Listener(ip_address("127.0.0.1"), 80, 13),
    ]
    (tmp_path / "tcp6").unlink()  # a kernel without IPv6
    assert len(ports.listeners(tmp_path)) == 1


# The root key


def test_a_root_key_is_looked_at_and_never_made(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert rootkey.look(path, create=True)[0].state is State.OK
    assert rootkey.look(path, create=False)[0].state is State.REFUSED
    assert not path.exists()
    key = rootkey.load_root_key(path)
    found, fingerprint = rootkey.look(path, create=True)
    assert (found.state, fingerprint) == (State.OK, key.fingerprint())
    path.chmod(0o644)
    found, fingerprint = rootkey.look(path, create=True)
    assert (found.state, found.mend, fingerprint) == (State.REFUSED, f"chmod 600 {path}", None)
    path.chmod(0o600)
    path.write_bytes(b"short")
    assert "32 bytes" in rootkey.look(path, create=True)[0].says


# The database


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "hearth.db"


def make(path: Path, schema: str, fingerprint: str = "f") -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = WAL; CREATE TABLE alembic_version (version_num TEXT);"
            "CREATE TABLE meta (name TEXT, value TEXT);"
        )
        connection.execute("INSERT INTO alembic_version VALUES (?)", (schema,))
        connection.execute("INSERT INTO meta VALUES (?, ?)", (database.FINGERPRINT, fingerprint))
        connection.commit()


def test_a_database_of_this_program(base: Path) -> None:
    assert database.look(base, None).state is State.OK
    make(base, newest())
    before = everything(base.parent)
    assert database.look(base, "f").state is State.OK
    assert everything(base.parent) == before  # nothing is made beside it


def test_an_older_one_is_migrated_by_the_next_start(base: Path) -> None:
    make(base, "0001")
    found = database.look(base, "f")
    assert found.state is State.OK and "migrated" in found.says


@pytest.mark.parametrize("fingerprint", ["g", None], ids=["another key", "the key is lost"])
def test_one_that_was_made_with_another_key(base: Path, fingerprint: str | None) -> None:
    make(base, newest())
    found = database.look(base, fingerprint)
    assert found.state is State.REFUSED and "root key" in found.says


def test_one_of_a_newer_hearth(base: Path) -> None:
    make(base, "9999")
    found = database.look(base, "f")
    assert found.state is State.REFUSED and "newer Hearth" in found.says


@pytest.mark.root
def test_root_does_not_read_it_as_root(base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make(base, newest())
    seen = tmp_path / "seen"
    seen.mkdir(mode=0o777)
    seen.chmod(0o777)
    os.chown(base, 4711, 4712)
    (tmp_path / "outside").symlink_to("/etc/hostname")
    original = database._read

    def read(path: Path) -> str:
        who = f"{os.getresuid()} {os.getresgid()} {os.getgroups()} {path} {Path('/outside').exists()}"
        Path("/seen/who").write_text(who)
        return original(path)

    monkeypatch.setattr(database, "_read", read)
    tmp_path.chmod(0o755)
    assert database.look(base, "f").state is State.OK
    assert (seen / "who").read_text() == "(4711, 4711, 4711) (4712, 4712, 4712) [] /hearth.db False"


def test_a_database_that_keeps_one_busy_is_given_up(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(base, newest())
    monkeypatch.setattr(database, "_TIMEOUT", 0.2)
    with closing(sqlite3.connect(base)) as connection:
        connection.executescript(
            "DROP TABLE meta; CREATE VIEW meta AS WITH RECURSIVE n(value) AS "
            "(SELECT 1 UNION ALL SELECT value + 1 FROM n) SELECT value, value AS name FROM n"
        )
    found = database.look(base, "f")
    assert found.state is State.REFUSED and "no answer" in found.says


def test_one_that_is_none(base: Path) -> None:
    base.write_text("this is no database" * 100)
    assert database.look(base, "f").state is State.REFUSED
    base.with_name("hearth.db-wal").touch()  # of a platform that was killed
    assert database.look(base, "f").state is State.NOTE


# Room, languages, locks


def test_room_is_held_against_the_floor() -> None:
    assert disk.room(DISK_FREE_MIN, "/data").state is State.OK
    found = disk.room(DISK_FREE_MIN - 1, "/the data")
    assert found.state is State.NOT_HELD
    assert "512MiB" in found.says and "'/the data'" in found.mend


def test_languages_that_are_fetched_are_no_fault_and_python_is_not_fetched(tmp_path: Path) -> None:
    places = Places(tmp_path, tmp_path / "python", tmp_path / "prefix", "3.11.2")
    found, python = languages.look(places, None)
    states = {one.name: one.state for one in found}
    assert states == {"python": State.NOT_HELD, "node": State.NOTE, "go": State.NOTE, "uv": State.OK}
    assert python is None
    for name in ("node-24.1.0", "go-1.20.1"):  # the second is too old
        (tmp_path / "toolchains" / name).mkdir(parents=True)
    (tmp_path / "prefix/bin").mkdir(parents=True)
    (tmp_path / "prefix/bin/python3.11").touch()
    places = Places(tmp_path / "none", tmp_path / "python", tmp_path / "prefix", "3.11.2")
    found, python = languages.look(places, tmp_path / "toolchains")
    said = {one.name: (one.state, one.says) for one in found}
    assert said["node"] == (State.OK, "24.1.0 (fetched)")
    assert said["go"][0] is State.NOTE
    assert python is not None and python.mount is not None


def test_the_lock_of_a_dead_keepers_uids(tmp_path: Path) -> None:
    locks = tmp_path / "uids"
    assert uids.left_locks("x", locks) == []
    block = uids.take_block("x", locks)
    assert uids.left_locks("x", locks) == []  # somebody holds it
    path = locks / str(block.range.start)
    block.close()
    assert not locks.exists()
    locks.mkdir()
    path.touch()
    assert uids.left_locks("x", locks) == [path]
