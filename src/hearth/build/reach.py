"""What a build needs of the outside: the addresses of package indexes, a bundle of certificates."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from hearth.build.registries import CA_TARGET
from hearth.core.errors import InvalidInput
from hearth.core.launch import Mount

ADDRESSES_MAX = 4  # of one name


async def resolve(
    endpoints: Iterable[tuple[str, int]],
) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, str], ...]]:
    """(allow, hosts) of `core.launch.Network`: IPv4 addresses, looked up now. What has none is left out."""
    loop = asyncio.get_running_loop()

    async def one(host: str, port: int) -> list[str]:
        try:
            found = await loop.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
        except OSError:
            return []  # not there now; the build says so itself, by name, when it needs it
        return list(dict.fromkeys(str(info[4][0]) for info in found))[:ADDRESSES_MAX]

    points = list(endpoints)
    found = await asyncio.gather(*(one(host, port) for host, port in points))
    allow, hosts = [], []
    for (host, port), addresses in zip(points, found, strict=True):
        for address in addresses:
            if ipaddress.ip_address(address).is_loopback:
                continue  # a sandbox's loopback is its own
            allow.append((address, port))
            if address != host:
                hosts.append((host, address))
    return tuple(dict.fromkeys(allow)), tuple(dict.fromkeys(hosts))


def keep_bundle(bundle: str, toolchains: Path) -> Mount:
    """Copy a certificate bundle to where it can be mounted from. Blocking. Raises InvalidInput when it can't be read."""
    try:
        data = Path(bundle).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"the certificates {bundle} can't be read: {error.strerror}",
            hint="SSL_CERT_FILE must name a file that Hearth's user may read",
        ) from None
    name = f"ca-{hashlib.sha256(data).hexdigest()[:16]}"
    folder = toolchains / name
    if not folder.is_dir():
        staged = toolchains / f".{name}-{os.getpid()}"
        staged.mkdir(mode=0o755, exist_ok=True)
        (staged / "ca.pem").write_bytes(data)
        (staged / "ca.pem").chmod(0o644)
        staged.chmod(0o755)
        staged.rename(folder)
    return Mount("toolchain", name, CA_TARGET)
