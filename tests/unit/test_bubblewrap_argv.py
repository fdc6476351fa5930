"""bubblewrap's command line: golden, because an option that goes missing is a hole."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace

import pytest

from hearth.drivers.bubblewrap import argv, spawn
from hearth.drivers.bubblewrap.status import Status
from hearth.drivers.common.ending import exit_of
from hearth.drivers.common.etc import etc_files

GOLDEN = [
    "--unshare-user",
    "--uid",
    "1000",
    "--gid",
    "1000",
    "--disable-userns",
    "--unshare-pid",
    "--unshare-net",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup",
    "--hostname",
    "fn",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
    "--clearenv",
    "--ro-bind",
    "/usr",
    "/usr",
    "--ro-bind",
    "/etc/ssl/certs",
    "/etc/ssl/certs",
    "--symlink",
    "usr/bin",
    "/bin",
    "--setenv",
    "A",
    "1",
    "--setenv",
    "B",
    "two",
    "--perms",
    "0444",
    "--file",
    "20",
    "/etc/passwd",
    "--proc",
    "/proc",
    "--ro-bind",
    "/proc/sys",
    "/proc/sys",
    "--dev",
    "/dev",
    "--size",
    "16777216",
    "--perms",
    "1777",
    "--tmpfs",
    "/dev/shm",
    "--remount-ro",
    "/dev",
    "--bind",
    "/run/h/slots/1-stage/0",
    "/tmp",
    "--ro-bind",
    "/run/h/slots/1",
    "/hearth",
    "--symlink",
    "/hearth/secrets",
    "/run/secrets",
    "--ro-bind",
    "/run/h/slots/1-stage/1",
    "/hearth-shim",
    "--bind",
    "/run/h/slots/1-stage/2",
    "/work",
    "--chdir",
    "/work",
    "--remount-ro",
    "/",
    "--json-status-fd",
    "10",
    "--block-fd",
    "13",
    "--add-seccomp-fd",
    "11",
    "--add-seccomp-fd",
    "12",
]


def test_options_are_golden() -> None:
    layout = argv.Layout(
        slot="/run/h/slots/1",
        tmp="/run/h/slots/1-stage/0",
        links=(("/bin", "usr/bin"),),
        system=("/usr", "/etc/ssl/certs"),
        binds=(
            argv.Bind("/run/h/slots/1-stage/1", "/hearth-shim"),
            argv.Bind("/run/h/slots/1-stage/2", "/work", writable=True),
        ),
        env={"A": "1", "B": "two"},
        workdir="/work",
    )
    fds = argv.Fds(status=10, filters=(11, 12), block=13, etc=(("/etc/passwd", 20),))
    assert argv.options(layout, fds) == GOLDEN


def test_a_sandbox_that_is_not_held_has_no_block_fd() -> None:
    layout = argv.Layout(slot="/s", tmp="/t", links=(), system=("/usr",))
    assert "--block-fd" not in argv.options(layout, argv.Fds(status=3, filters=(4, 5)))


def test_the_groups_are_joined_and_root_is_dropped_before_bubblewrap() -> None:
    words = argv.command(
        joins=("/cg/a/cgroup.procs", "/cg/b/cgroup.procs"),
        open_files=512,
        uid=77,
        args_fd=9,
        payload=("/bin/x", "--flag"),
        tools={"sh": "/bin/sh", "setpriv": "/usr/bin/setpriv", "bwrap": "/usr/bin/bwrap"},
    )
    assert words[:2] == ["/bin/sh", "-c"]
    assert words[3:] == [
        *("join", "512", "/cg/a/cgroup.procs", "/cg/b/cgroup.procs", "--"),
        *("/usr/bin/setpriv", "--reuid=77", "--regid=77", "--clear-groups", "--"),
        *("/usr/bin/bwrap", "--args", "9", "--", "/bin/x", "--flag"),
    ]


def test_arguments_are_nul_terminated_and_a_nul_inside_is_refused() -> None:
    assert argv.encode(["--setenv", "A", "ü"]) == b"--setenv\0A\0\xc3\xbc\0"
    with pytest.raises(ValueError, match="NUL"):
        argv.encode(["a\0--bind"])


def test_etc_has_a_nameserver_only_with_a_network() -> None:
    assert etc_files(None, ())["/etc/resolv.conf"] == ""
    files = etc_files("10.1.2.3", (("index.example", "10.0.0.5"),))
    assert files["/etc/resolv.conf"].startswith("nameserver 10.1.2.3\n")
    assert "10.0.0.5 index.example\n" in files["/etc/hosts"]
    assert "localhost fn" in files["/etc/hosts"]


async def test_status_is_read_in_pieces() -> None:
    reader, writer = os.pipe()
    status = Status(reader)
    try:
        for piece in (
            b'{ "child',
            b'-pid": 4',
            b'2, "net-namespace": 7 }\n{ "exit-',
            b'code": 7 }\nnonsense\n',
        ):
            os.write(writer, piece)
            status.read()
        assert (status.child, status.code, status.closed) == (42, 7, False)
        os.close(writer)
        status.read()
        assert status.closed
    finally:
        status.close()
        status.close()


async def test_status_without_end_is_not_kept() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    status = Status(reader)
    try:
        for _ in range(100):
            os.write(writer, b"x" * 4000)
            status.read()
        assert len(status._data) < 10_000
        assert status.child is None
    finally:
        os.close(writer)
        status.close()


def test_a_memory_file_is_rewound() -> None:
    fd = spawn.memfd("test", b"x" * 100_000)
    try:
        assert os.read(fd, 200_000) == b"x" * 100_000
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("code", "kills", "wanted"),
    [
        (0, 0, (0, None, False)),
        (7, 0, (7, None, False)),
        (0, 1, (0, None, True)),  # a child was killed for memory, the program went on
        (137, 1, (None, 9, True)),
        (143, 0, (None, 15, False)),
        (255, 0, (255, None, False)),
        (None, 0, (None, 9, False)),
        (None, 1, (None, 9, True)),
    ],
)
def test_how_a_sandbox_ended(
    code: int | None, kills: int, wanted: tuple[int | None, int | None, bool]
) -> None:
    ended = exit_of(code, kills)
    assert (ended.code, ended.signal, ended.oom) == wanted


OWN = {
    "sh": "/bin/sh", "setpriv": "/usr/bin/setpriv", "bwrap": "/usr/bin/bwrap", "unshare": "/usr/bin/unshare",
}  # fmt: skip


@pytest.mark.parametrize("network", [True, False])
def test_an_ordinary_users_command_is_golden(network: bool) -> None:
    words = argv.own_command(
        joins=("/g/cgroup.procs",), open_files=77, status_fd=5, network=network, args_fd=9, payload=("/bin/x",), tools=OWN
    )  # fmt: skip
    around = ["/usr/bin/unshare", "--user", "--map-root-user", *(["--net"] if network else []), "--"]
    assert words[: len(around)] == around
    shell = words[len(around) :]
    assert shell[:2] == ["/bin/sh", "-c"] and shell[2].index("read -r _") < shell[2].index("exec")
    assert shell[3:] == [
        *("join", "5", "77", "/g/cgroup.procs", "--"),
        *("/usr/bin/bwrap", "--args", "9", "--", "/bin/x"),
    ]
    assert "setpriv" not in str(words)  # it has no uid to become


def test_a_network_that_is_there_already_is_not_made() -> None:
    layout = argv.Layout(slot="/s", tmp="/t", links=(), system=(), network=False)
    fds = argv.Fds(status=3, filters=())
    assert "--unshare-net" not in argv.options(layout, fds)
    assert set(argv.options(replace(layout, network=True), fds)) - set(argv.options(layout, fds)) == {
        "--unshare-net"
    }


def test_a_closed_pipe_is_no_yes() -> None:
    """A keeper that dies before it has set the limits and the rules: the shell must not go on."""
    done = subprocess.run(
        ["/bin/sh", "-c", argv._HOLD + "echo went on", "join", "1"], input="", capture_output=True, text=True
    )
    assert done.returncode == 125 and "went on" not in done.stdout
    done = subprocess.run(
        ["/bin/sh", "-c", argv._HOLD + "echo went on", "join", "1"],
        input="\n",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == '{ "held": true }\nwent on\n'
