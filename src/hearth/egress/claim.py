"""A platform's own corner of the machine: its names, and a range of addresses that nobody else uses.

Two platforms on one machine must not collide. Names carry the instance id; the range is claimed in the kernel itself,
by the gateway's address on `lo` (its label names the platform) and an unreachable route, under a machine-wide lock
while it is chosen. What the kernel has is the truth: there is no file that could be stale.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import chain
from pathlib import Path

from hearth.core.errors import SandboxFailed
from hearth.egress import links
from hearth.egress.netlink import Netlink
from hearth.egress.ruleset import Names

LOCK = Path("/run/hearth-networks.lock")
_SPACE = IPv4Network("10.128.0.0/9")
_PREFIX = 20  # 4,094 addresses: far above what one machine runs; small, so that it is likely to hit nobody's network
_LOOPBACK = 1
_INSTANCE = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"


def prefix(instance: str) -> str:
    """The six characters that the names of this platform's links begin with (a link's name has 15 at most)."""
    if _INSTANCE.match(instance) is None:
        raise ValueError(f"{instance!r} is not an instance id")
    digest = hashlib.sha256(instance.encode()).digest()
    return "hb" + "".join(_LETTERS[byte & 31] for byte in digest[:4])


def table(instance: str) -> str:
    """The name of this platform's nftables table."""
    return f"hearth_{instance}"


def group(instance: str) -> int:
    """The link group of this platform (the kernel can remove a whole group in one step)."""
    return int.from_bytes(hashlib.sha256(instance.encode()).digest()[4:8], "big") | 1


def log_group(instance: str) -> int:
    """The group by which the kernel tells of this platform's refused packets: one listener can have it."""
    return 1024 + int.from_bytes(hashlib.sha256(instance.encode()).digest()[8:10], "big") % 60_000


def names(instance: str, block: IPv4Network, private: tuple[IPv4Network, ...] = ()) -> Names:
    """All names of a platform that has this range; its first address is the gateway."""
    return Names(table(instance), prefix(instance), block[1], block, log_group(instance), private)


def candidates(instance: str, taken: Iterable[IPv4Network]) -> Iterator[IPv4Network]:
    """Ranges that overlap nothing taken, beginning at a place of this instance's own, so that it stays the same."""
    used = [network for network in taken if network.prefixlen > 0]
    count = 1 << (_PREFIX - _SPACE.prefixlen)
    first = int.from_bytes(hashlib.sha256(instance.encode()).digest()[8:12], "big")
    for step in range(count):
        number = (first + step) % count
        block = IPv4Network((int(_SPACE.network_address) + (number << (32 - _PREFIX)), _PREFIX))
        if not any(block.overlaps(network) for network in used):
            yield block


def claim(
    netlink: Netlink,
    instance: str,
    avoid: Iterable[IPv4Network],
    lock: Path = LOCK,
    private: tuple[IPv4Network, ...] = (),
) -> Names:
    """Take a free range: the gateway's address stands on `lo` afterwards.

    Args:
        netlink: a socket of `ROUTE`.
        instance: the platform's instance id.
        avoid: ranges that no route shows but that are used, such as the name servers'.
        lock: the machine-wide lock file.
        private: ranges that the operator lets functions reach; no sandbox has an address in them if that can be.

    Raises:
        SandboxFailed: no range is free.
        OSError: as the kernel said it.
    """
    label = f"lo:{prefix(instance)}"
    with _locked(lock):
        taken = [*(route.network for route in links.routes(netlink)), *avoid]
        taken += [
            IPv4Network(a.address) for a in links.addresses(netlink) if isinstance(a.address, IPv4Address)
        ]
        for block in chain(candidates(instance, [*taken, *private]), candidates(instance, taken)):
            made = names(instance, block, private)
            links.add_address(netlink, _LOOPBACK, made.gateway, label)
            try:
                links.claim_route(netlink, block)
            except OSError as error:
                links.delete_address(netlink, _LOOPBACK, made.gateway)
                if error.errno != errno.EEXIST:
                    raise
                continue
            return made
    raise SandboxFailed(
        "no range of addresses is free for the networks of sandboxes",
        hint=f"free a /{_PREFIX} of {_SPACE} on this machine: see `ip route show table all`",
    )


def release(netlink: Netlink, instance: str) -> list[IPv4Network]:
    """Give back what an instance claimed, also one that died; returns the ranges."""
    label = f"lo:{prefix(instance)}"
    found = []
    for have in links.addresses(netlink):
        if have.label == label and isinstance(have.address, IPv4Address):
            block = IPv4Network((have.address, _PREFIX), strict=False)
            links.unclaim_route(netlink, block)
            links.delete_address(netlink, _LOOPBACK, have.address)
            found.append(block)
    return found


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file; the kernel lets go of it when its holder dies."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
