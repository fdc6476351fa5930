"""The host's own name servers, whom the resolver asks."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")
_MOST = 3  # MAXNS of resolv.conf(5)


@dataclass(frozen=True, slots=True)
class Upstream:
    """One name server."""

    address: str
    port: int = 53


_DEFAULT = (Upstream("127.0.0.1"),)


def upstreams_from(path: Path = RESOLV_CONF) -> tuple[Upstream, ...]:
    """Name servers that a resolv.conf(5) names: the first three, as everybody else reads it.

    A missing file, or one that names none, means the name server on this machine (resolv.conf(5), `nameserver`).
    """
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return _DEFAULT
    found = []
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            ip_address(words[1])  # a scope (fe80::1%eth0) is part of an address
        except ValueError:
            continue
        found.append(Upstream(words[1]))
    return tuple(found[:_MOST]) or _DEFAULT


class Followed:
    """The name servers of a file, read again when it has changed: machines move between networks.

    Args:
        path: a resolv.conf(5).
    """

    def __init__(self, path: Path = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._found: tuple[Upstream, ...] = _DEFAULT

    def __call__(self) -> tuple[Upstream, ...]:
        try:
            have = self._path.stat()
            now = (have.st_mtime_ns, have.st_size, have.st_ino)
        except OSError:
            now = (0, 0, 0)
        if now != self._seen:
            self._seen, self._found = now, upstreams_from(self._path)
        return self._found
