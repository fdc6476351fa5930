"""bubblewrap's command line, as a pure function of what is wanted: see the golden tests.

Every option is there for a reason that a test in tests/security holds; docs/explanation/isolation.md tells them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hearth.drivers.common.etc import INSIDE_UID

SHM_BYTES = 16 << 20

# Joins the control groups, is the first to be killed when the machine runs out of memory, then becomes its arguments.
# `echo` to a file that is opened here: dash knows one-digit descriptors only, and has no `ulimit -u`.
_JOIN = (
    'ulimit -c 0 && ulimit -n "$1" || exit 125; shift; '
    "echo 500 > /proc/self/oom_score_adj || exit 125; "
    'for file in "$@"; do shift; [ "$file" = -- ] && break; echo 0 > "$file" || exit 125; done; exec "$@"'
)


# An ordinary user's: says that its user namespace is there, and waits to be let on; a closed pipe is no yes.
_HOLD = """echo '{ "held": true }' > "/proc/self/fd/$1" && read -r _ || exit 125; shift; exec < /dev/null; """


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path that stands at `target` inside."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, slots=True)
class Fds:
    """Descriptors that bubblewrap inherits: by number, as they are in the parent."""

    status: int
    filters: tuple[int, ...]
    block: int | None = None
    etc: tuple[tuple[str, int], ...] = ()  # (path inside, memfd)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the root inside is made of.

    Args:
        slot: the slot's directory on the host; stands at /hearth.
        tmp: a tmpfs on the host; stands at /tmp.
        links: (link inside, what it says), such as ("/bin", "usr/bin").
        system: host paths bound read-only at their own place, such as /usr.
        binds: mounts of the sandbox's own.
        network: bubblewrap makes the network namespace; else it is in the one that it is to have already.
    """

    slot: str
    tmp: str
    links: tuple[tuple[str, str], ...]
    system: tuple[str, ...]
    binds: tuple[Bind, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/tmp"
    hostname: str = "fn"
    network: bool = True


def options(layout: Layout, fds: Fds) -> list[str]:
    """All options but the program: given to bubblewrap by ``--args``, so that no value of the environment is in `ps`."""
    out = [
        *("--unshare-user", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--disable-userns"),
        *("--unshare-pid", *(("--unshare-net",) if layout.network else ())),
        *("--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
        *(
            "--hostname",
            layout.hostname,
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--clearenv",
        ),
    ]
    for path in layout.system:
        out += ["--ro-bind", path, path]
    for link, target in layout.links:
        out += ["--symlink", target, link]
    for name, value in layout.env.items():
        out += ["--setenv", name, value]
    for path, fd in fds.etc:
        out += ["--perms", "0444", "--file", str(fd), path]
    out += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]
    out += ["--dev", "/dev", "--size", str(SHM_BYTES), "--perms", "1777", "--tmpfs", "/dev/shm"]
    out += ["--remount-ro", "/dev", "--bind", layout.tmp, "/tmp", "--ro-bind", layout.slot, "/hearth"]
    out += ["--symlink", "/hearth/secrets", "/run/secrets"]
    for bind in layout.binds:
        out += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
    out += ["--chdir", layout.workdir, "--remount-ro", "/", "--json-status-fd", str(fds.status)]
    if fds.block is not None:
        out += ["--block-fd", str(fds.block)]
    for fd in fds.filters:
        out += ["--add-seccomp-fd", str(fd)]
    return out


def encode(words: list[str]) -> bytes:
    """For ``--args``: a NUL after each. Raises ValueError when a word has one in it."""
    if any("\0" in word for word in words):
        raise ValueError("an argument or environment value has a NUL byte in it")
    return b"".join(word.encode("utf-8", "surrogateescape") + b"\0" for word in words)


def command(
    *,
    joins: tuple[str, ...],
    open_files: int,
    uid: int,
    args_fd: int,
    payload: tuple[str, ...],
    tools: Mapping[str, str],
) -> list[str]:
    """The whole command: join the groups as root, become `uid`, then bubblewrap.

    Args:
        joins: cgroup.procs files.
        open_files: RLIMIT_NOFILE inside.
        uid: host uid and gid. Dropped *before* bubblewrap: its own ``--uid`` leaves host uid 0.
        args_fd: memfd with `options`, encoded.
        payload: the program inside.
        tools: paths of ``sh``, ``setpriv`` and ``bwrap``.
    """
    return [
        *(tools["sh"], "-c", _JOIN, "join", str(open_files), *joins, "--"),
        *(tools["setpriv"], f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"),
        *(tools["bwrap"], "--args", str(args_fd), "--", *payload),
    ]


def own_command(
    *,
    joins: tuple[str, ...],
    open_files: int,
    status_fd: int,
    network: bool,
    args_fd: int,
    payload: tuple[str, ...],
    tools: Mapping[str, str],
) -> list[str]:
    """The whole command of an ordinary user: a user namespace around the sandbox, then as `command`.

    That namespace owns the network, and its processes are counted apart. The sandbox's program is in another one below it
    and has no say here, whatever capabilities it might win. bubblewrap is root in it, and nobody outside.

    Args:
        status_fd: is told that the namespace is there; the shell then reads a line from its standard input before it goes on.
        network: make the network namespace here, so that rules can be put into it first.
    """
    return [
        *(tools["unshare"], "--user", "--map-root-user", *(("--net",) if network else ()), "--"),
        *(tools["sh"], "-c", _HOLD + _JOIN, "join", str(status_fd), str(open_files), *joins, "--"),
        *(tools["bwrap"], "--args", str(args_fd), "--", *payload),
    ]
