"""What the names in a sandbox's mounts stand for on this host; every name comes from a less trusted process.

A name is a single path component (a prefix: one of the paths that the keeper was started with), and no part of the path
that is opened may be a symbolic link: the folders belong to an unprivileged uid, which could put links there.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path

from hearth.core.errors import InvalidInput, NotFound, SandboxFailed
from hearth.core.ids import is_id
from hearth.core.launch import Mount, Network, SandboxSpec
from hearth.core.targets import parse_target
from hearth.drivers.common import mounts

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@:=-]{0,199}\Z")
_PART = r"[A-Za-z0-9_+@,=~-][A-Za-z0-9._+@,=~-]*|\.[A-Za-z0-9_][A-Za-z0-9._+@,=~-]*"
_TARGET = re.compile(rf"(?:/(?:{_PART}))+\Z")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})\Z")
_RESERVED = (
    "/proc",
    "/dev",
    "/sys",
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/run",
    "/tmp",
    "/hearth",
)


class Sources:
    """Opens what mounts name.

    Args:
        folders: mount kind to the host folder in which its names are; absolute paths without symbolic links.
        prefixes: host paths of private interpreters, opened once at the start.
    """

    def __init__(self, folders: Mapping[str, Path], prefixes: tuple[str, ...]) -> None:
        self._folders = {kind: folder.resolve() for kind, folder in folders.items()}
        self._prefixes: dict[str, int] = {}
        for prefix in prefixes:
            self._prefixes[prefix] = os.open(prefix, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, kind: str, name: str) -> int:
        """An O_PATH descriptor of the folder; the caller closes it.

        Raises:
            InvalidInput: not a name of that kind.
            NotFound: there is no such folder on this node.
        """
        if kind == "prefix":
            if name not in self._prefixes:
                raise InvalidInput(f"{name[:200]!r} is not one of the interpreters that this keeper may show")
            return os.dup(self._prefixes[name])
        folder = self._folders.get(kind)
        if folder is None or _NAME.match(name) is None:
            raise InvalidInput(f"{kind} {name[:200]!r} is not something that can be mounted")
        try:
            return mounts.open_folder(folder / name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"there is no {kind} {name} on this node") from error
        except OSError as error:
            raise SandboxFailed(f"{kind} {name} can't be opened: {error.strerror}") from error

    def close(self) -> None:
        while self._prefixes:
            os.close(self._prefixes.popitem()[1])


def check_spec(spec: SandboxSpec) -> None:
    """Refuse a spec that could be misread. Raises InvalidInput."""
    if not is_id("sandbox", spec.id) or not is_id("owner", spec.owner):
        raise InvalidInput("a sandbox needs an sb_ id and an own_ owner")
    if not spec.argv or not spec.argv[0].startswith("/"):
        raise InvalidInput("a sandbox needs a program, by its full path inside")
    words = [*spec.argv, spec.workdir, *(word for pair in spec.env for word in pair)]
    if any("\0" in word for word in words):
        raise InvalidInput("an argument or environment value has a NUL byte in it")
    for name, _ in spec.env:
        if not name or "=" in name:
            raise InvalidInput(f"{name[:80]!r} is not the name of an environment variable")
    if not spec.workdir.startswith("/") or ".." in spec.workdir.split("/"):
        raise InvalidInput("the working directory must be a full path")
    targets = [check_target(mount.target, mount) for mount in spec.mounts]
    if spec.disk is not None:
        targets.append(check_target(spec.disk.target))
        if _NAME.match(spec.disk.name) is None or spec.disk.bytes < 1 << 20:
            raise InvalidInput("a disk needs a plain name and at least 1 MiB")
    if len(set(targets)) != len(targets):
        raise InvalidInput("two mounts have the same place in the sandbox")
    check_network(spec.network)


def check_target(target: str, mount: Mount | None = None) -> str:
    """A place inside where something may be mounted. Raises InvalidInput."""
    if _TARGET.match(target) is None:
        raise InvalidInput(f"{target[:200]!r} is not a place for a mount: write a full, plain path")
    inside_usr = mount is not None and mount.kind == "prefix" and target.startswith("/usr/")
    if not inside_usr and any(target == place or target.startswith(place + "/") for place in _RESERVED):
        raise InvalidInput(f"{target[:200]!r} belongs to the sandbox itself; mount elsewhere")
    if mount is not None and mount.kind == "prefix" and target != mount.name:
        raise InvalidInput("an interpreter's prefix must stand at its own path")
    return target


def check_network(network: Network) -> None:
    """Names and addresses that go into /etc/hosts and rules. Raises InvalidInput."""
    for host, port in network.targets:
        if str(parse_target(f"{host}:{port}")) != f"{host}:{port}":
            raise InvalidInput(f"{host[:80]!r} is not how a target is written")
    addresses = [address for address, _ in network.allow] + [address for _, address in network.hosts]
    try:
        for address in addresses:
            ipaddress.ip_address(address)
    except ValueError as error:
        raise InvalidInput(f"{error}; a network's allow and hosts need plain addresses") from error
    if any(not 0 < port < 65536 for _, port in network.allow):
        raise InvalidInput("a port is a number from 1 to 65535")
    if any(_HOST.match(name) is None for name, _ in network.hosts):
        raise InvalidInput("a host's name has letters, digits, dots and hyphens")
