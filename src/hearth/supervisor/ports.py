"""Whether the public port can be had, and by whom it is taken (proc(5), /proc/net/tcp)."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hearth.core.finding import Finding, note, ok
from hearth.supervisor.sockets import NAME, try_address, unbindable

_LISTEN = "0A"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Listener:
    address: Address
    port: int
    inode: int


def port_finding(host: str, port: int, own: Iterable[int] = (), left: Iterable[int] = ()) -> Finding:
    """Whether `hearth up` could listen there. What listens is looked up first; then the address is bound for a moment.

    Args:
        own: processes of the platform that runs on the same data directory.
        left: those that an earlier one left, which the next start ends before it binds.
    """
    if port == 0:
        return ok(NAME, f"a free one on {host} is taken at each start")
    where = f"port {port} on {host}"
    taken = [found for found in listeners() if found.port == port and _covers(found.address, host)]
    if _has(own, taken):
        return ok(NAME, f"{where} is the running platform's own")
    if _has(left, taken):
        return note(NAME, f"{where} is held by what an earlier hearth left, which the next start ends")
    try:
        try_address(host, port)
    except OSError as error:
        return unbindable(host, port, error, _who(taken[0].inode) if taken else "")
    return ok(NAME, f"{where} is free")


def _has(pids: Iterable[int], sockets: list[Listener]) -> bool:
    inodes = {inode for pid in pids for inode in sockets_of(pid)}
    return any(found.inode in inodes for found in sockets)


def listeners(net: Path = Path("/proc/net")) -> list[Listener]:
    """All TCP sockets of this network namespace that listen."""
    found = []
    for name in ("tcp", "tcp6"):
        try:
            lines = (net / name).read_text().splitlines()[1:]
        except OSError:  # no IPv6
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                found.append(Listener(_address(address), int(port, 16), int(fields[9])))
    return found


def sockets_of(pid: int) -> set[int]:
    """Inodes of a process's sockets; none where this user may not see them."""
    found = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            name = str(fd.readlink())
            if name.startswith("socket:["):
                found.add(int(name[len("socket:[") : -1]))
    except OSError:
        return found
    return found


def _address(text: str) -> Address:
    """Four bytes at a time, each group in this machine's order."""
    data = bytes.fromhex(text)
    if sys.byteorder == "little":
        data = b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))
    found = ipaddress.ip_address(data)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def _covers(have: Address, host: str) -> bool:
    """Whether a listener on `have` stands in the way of `host`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return False
    wanted = ipaddress.ip_address(str(found[0][4][0]).partition("%")[0])
    return have == wanted or have.is_unspecified or wanted.is_unspecified


def _who(inode: int) -> str:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and inode in sockets_of(int(entry.name)):
            try:
                return f" by {(entry / 'comm').read_text().strip()} (process {entry.name})"
            except OSError:
                continue
    return ""
