"""A container as the Engine API is to make it: a pure function of what is wanted, with golden tests.

Every setting is there for a reason that a test in tests/security holds; docs/explanation/isolation.md tells them. Never sent:
MaskedPaths and ReadonlyPaths (an own list would replace Docker's), OomKillDisable, Devices, host namespaces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hearth.core.launch import Limits

INSTANCE, OWNER, SANDBOX = "hearth.instance", "hearth.owner", "hearth.sandbox"
SHM_BYTES = 16 << 20
HELD = "hearth: held"

# The container's first program: says that it is there (its network namespace with it), and waits for a line before it becomes the one
# that was asked for; an input that ends is no yes. A program that isn't there is told apart from one that fails.
HOLD = (
    f'[ -x "$1" ] || {{ echo "$1: there is no such program" >&2; exit 125; }}; echo "{HELD}"; '
    'read -r _ || exit 125; exec "$@" < /dev/null'
)

# Processes that are not the function's: Docker's init and the shell before it; gVisor's own threads count too.
OWN_PIDS = 2
_GVISOR_PIDS = 256


@dataclass(frozen=True, slots=True)
class Bind:
    """A path of the daemon's host that stands at `target` inside."""

    source: str
    target: str
    writable: bool = False
    follows: bool = False  # what is mounted at the source later appears inside too


@dataclass(frozen=True, slots=True)
class Container:
    """What is wanted.

    Args:
        argv: the program, as seen inside.
        user: uid and gid that every process of it has, on the host too.
        tmp: bytes of a tmpfs at /tmp that Docker makes; None where a bind brings one.
        runtime: isolation runtime by the daemon's name for it; empty for the daemon's default.
        profile: seccomp, as text.
    """

    image: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, str], ...]
    user: tuple[int, int]
    limits: Limits
    binds: tuple[Bind, ...]
    workdir: str
    profile: str
    tmp: int | None = None
    runtime: str = ""


def config(wanted: Container) -> dict[str, Any]:
    """The body of ``POST /containers/create``."""
    limits, runtime = wanted.limits, wanted.runtime
    host: dict[str, Any] = {
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges", f"seccomp={wanted.profile}"],
        **resources(limits, runtime),
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "OomScoreAdj": 500,
        "IpcMode": "private",
        "ShmSize": SHM_BYTES,
        "CgroupnsMode": "private",
        "Init": True,  # a process 1 ignores signals from itself, and reaps nobody
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none", "Config": {}},
        "Mounts": [_mount(bind) for bind in wanted.binds],
    }
    if wanted.tmp is not None:
        inodes = 1024 + wanted.tmp // 1024
        host["Tmpfs"] = {"/tmp": f"rw,nosuid,nodev,exec,size={wanted.tmp},nr_inodes={inodes},mode=1777"}
    if runtime:
        host["Runtime"] = runtime
    return {
        "Image": wanted.image,
        "Entrypoint": ["/bin/sh", "-c", HOLD, "hold"],
        "Cmd": list(wanted.argv),
        "User": f"{wanted.user[0]}:{wanted.user[1]}",
        "Env": [f"{name}={value}" for name, value in wanted.env],
        "WorkingDir": wanted.workdir,
        "Hostname": "fn",
        "Labels": dict(wanted.labels),
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "HostConfig": host,
    }


def resources(limits: Limits, runtime: str = "") -> dict[str, Any]:
    """What ``POST /containers/{id}/update`` takes alike: memory without swap, processor time, processes."""
    return {
        "Memory": limits.memory,
        "MemorySwap": limits.memory,
        "NanoCpus": int(limits.cpu * 10**9),
        "PidsLimit": limits.pids + OWN_PIDS + (_GVISOR_PIDS if is_gvisor(runtime) else 0),
    }


def is_gvisor(runtime: str) -> bool:
    """By its name: a runtime that is gVisor's has `runsc` in it, as its own documentation calls it."""
    return "runsc" in runtime or "gvisor" in runtime


def _mount(bind: Bind) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": bind.source,
        "Target": bind.target,
        "ReadOnly": not bind.writable,
        "BindOptions": {"Propagation": "rslave" if bind.follows else "rprivate"},
    }
