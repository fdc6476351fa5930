"""What passes between runtimes, builds and drivers: sandboxes described as plain data.

A driver knows nothing of functions; a runtime and a build know nothing of isolation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NewType

from hearth.core import limits
from hearth.core.finding import Finding

Handle = NewType("Handle", str)
"""Opaque and versioned; a driver makes it, its caller stores it at once."""


@dataclass(frozen=True, slots=True)
class Toolchain:
    """One installed language, exact version.

    Args:
        runtime: ``python``, ``node`` or ``go``.
        version: exact, such as ``3.11.2``.
        bin: path of the interpreter or compiler *inside* a sandbox.
        mount: the mount that brings it there, or None when it is below /usr, which every sandbox has.
        source: ``system`` or ``wheel``.
    """

    runtime: str
    version: str
    bin: str
    mount: Mount | None = None
    source: str = "system"


@dataclass(frozen=True, slots=True)
class Mount:
    """A read-only folder in a sandbox. Its source is named, never a path, so that the keeper decides what it is.

    Kinds: ``shim`` (guest code that comes with Hearth; name: the runtime), ``toolchain`` (a folder below the
    data directory's toolchains/; name: its folder), ``prefix`` (a private interpreter's own prefix, from the list that
    the keeper was started with; name: its path), ``source`` (an unpacked source; name: digest), ``artifact``
    (a built artifact; name: digest), ``seed`` (a read-only cache below toolchains/, such as Go's compiled
    standard library; name: its folder).
    """

    kind: Literal["shim", "toolchain", "prefix", "source", "artifact", "seed"]
    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use: bytes of memory, cores, processes, bytes of /tmp, open files."""

    memory: int = limits.MEMORY_DEFAULT
    cpu: float = limits.CPU_DEFAULT
    pids: int = limits.PIDS
    tmp: int = limits.TMP_DEFAULT
    open_files: int = limits.OPEN_FILES


@dataclass(frozen=True, slots=True)
class Network:
    """Whom a sandbox may reach.

    Args:
        mode: ``none`` (loopback only) or ``internet`` (public addresses only).
        allow: (address, port) pairs reachable over TCP whatever their address; builds only.
        hosts: (name, address) pairs written into /etc/hosts; builds only.
        targets: (name, or IPv4 range with its length; port) pairs of an allowlist. Who opens them judges each address again:
            public ones, and private ones that the operator allows.
    """

    mode: Literal["none", "internet"] = "none"
    allow: tuple[tuple[str, int], ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    targets: tuple[tuple[str, int], ...] = ()

    @property
    def opens(self) -> bool:
        """Whether anybody can be reached."""
        return self.mode != "none" or bool(self.allow) or bool(self.targets)


@dataclass(frozen=True, slots=True)
class Disk:
    """A writable file system of fixed size, kept under `name` between sandboxes (one at a time uses it).

    Args:
        name: whose disk it is (a namespace's id); its content is a cache and may be lost.
        bytes: its size.
        target: where it stands in the sandbox; owned by the sandbox's user.
    """

    name: str
    bytes: int
    target: str


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """One sandbox to start: a slot that waits for a function, or a build.

    Args:
        id: ``sb_…``, chosen by the caller, who has stored it.
        owner: ``own_…`` of the process that asked; what it owns dies with its connection.
        argv: program and arguments, paths as seen inside.
        env: the whole environment; nothing is inherited.
        mounts: read-only folders beside /usr.
        limits: held from before the program can fork; a slot's are raised or lowered at attach.
        network: a slot's is given at attach.
        networked: make the (closed) network ahead, so that attach can open it.
        guest: the program will connect to /hearth/guest.sock; `Driver.connect` gives that connection.
        disk: writable space that is not memory, or None.
        language: of the runtime, where the driver has an image for each; empty: any will do.
        isolation_runtime: what runs it below the driver (``runsc``, ``kata``); empty: the driver's own choice.
    """

    id: str
    owner: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    limits: Limits = field(default_factory=Limits)
    network: Network = field(default_factory=Network)
    networked: bool = False
    guest: bool = True
    disk: Disk | None = None
    workdir: str = "/tmp"
    language: str = ""
    isolation_runtime: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What makes a waiting slot one version's: code at /hearth/code, limits, network, secrets as files."""

    artifact: str
    limits: Limits
    network: Network
    secrets: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Exit:
    """How a sandbox ended. `code` is None when a signal ended it; `oom`: the kernel killed in it for memory."""

    code: int | None
    signal: int | None = None
    oom: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a sandbox uses now: bytes, seconds of CPU since its start, processes, kills for memory."""

    memory: int
    memory_peak: int
    cpu_seconds: float
    pids: int
    oom_kills: int = 0


LIMITS = ("memory", "cpu", "pids", "tmp", "network", "seccomp")
"""What every driver that isolates is to enforce, in the order in which it is told."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a driver can enforce on this machine; each False has its reason in `missing`."""

    driver: str
    usable: bool
    enforces: frozenset[str]  # of: memory cpu pids tmp network uids seccomp
    missing: tuple[Finding, ...] = ()  # by name of the limit: why, and the command that mends it
    facts: tuple[tuple[str, str], ...] = ()  # such as ("cgroup", "v1")


CALLS_PORT = 9000
"""Of the sandbox's own 127.0.0.1: there functions call functions (HEARTH_URL)."""

WITHOUT_NETWORK = "isolation runtimes without network"
"""The fact of a probe that names them, with spaces between."""


def without_network(probe: Probe, default: str = "") -> frozenset[str]:
    """Isolation runtimes with which a sandbox can have no network here.

    Args:
        default: the platform's own, where one is set: if it is one of them, the empty name stands for it too.
    """
    names = frozenset(dict(probe.facts).get(WITHOUT_NETWORK, "").split())
    own = default or dict(probe.facts).get("isolation runtime", "")
    return names | {""} if own in names else names


@dataclass(frozen=True, slots=True)
class SlotKind:
    """What slots are interchangeable: same driver, isolation runtime, language and exact version, networked or not."""

    driver: str
    runtime: str
    version: str
    networked: bool
    isolation_runtime: str = ""


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """How a runtime's empty slot is started; what it runs says hello and waits for `load`."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    mounts: tuple[Mount, ...]


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """How a source becomes an artifact.

    Args:
        script: POSIX shell, run in the build sandbox with the source copied to its working directory,
            ``$OUT`` (empty folder, becomes the artifact) and ``$CACHE`` (this namespace's, kept) set. What
            it prints is the build's log; a non-zero exit is a failed build.
        env: added to the build's environment.
        mounts: toolchains and seeds.
        identity: what, beside source, settings and toolchain, decides the result (a plan's own revision).
    """

    script: str
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    identity: str = ""
