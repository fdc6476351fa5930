"""What all sandboxes of one driver share, and what the host's own system looks like inside."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import StartupFailed
from hearth.drivers.bubblewrap.cgroups import Groups
from hearth.drivers.bubblewrap.disk import Disks
from hearth.drivers.bubblewrap.seccomp import Filters
from hearth.drivers.bubblewrap.sources import Sources
from hearth.drivers.bubblewrap.uids import UidBlock
from hearth.ports.egress import Networks

_SEARCH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
# Certificates, the linker's cache and Debian's links from /usr/bin into /usr: nothing of this host's own settings.
_ETC = (
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/alternatives",
    "/etc/ld.so.cache",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Args:
    slots: the tmpfs with the slots' directories.
    tools: paths of sh, setpriv and bwrap.
    links, system: see `argv.Layout`.
    networks: None: only ``network: none``.
    """

    slots: Path
    groups: Groups
    uids: UidBlock
    disks: Disks
    sources: Sources
    filters: Filters
    networks: Networks | None
    tools: dict[str, str]
    links: tuple[tuple[str, str], ...]
    system: tuple[str, ...]


def find_tools() -> dict[str, str]:
    """Raises StartupFailed when one is missing."""
    packages = {"sh": "dash", "setpriv": "util-linux", "bwrap": "bubblewrap"}
    found = {name: shutil.which(name, path=_SEARCH) for name in packages}
    missing = [packages[name] for name, path in found.items() if path is None]
    if missing:
        raise StartupFailed(
            f"sandboxes need {', '.join(missing)}", hint=f"apt-get install {' '.join(missing)}"
        )
    return {name: path for name, path in found.items() if path is not None}


def host_layout(root: Path = Path("/")) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """How /bin, /lib and so on are made inside: (links, paths bound at their own place).

    Where the host has a link (merged /usr), the same link; where it has a folder, that folder read-only.
    """
    links, system = [], ["/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = root / name
        if path.is_symlink():
            links.append((f"/{name}", str(path.readlink()).lstrip("/")))
        elif path.is_dir():
            system.append(f"/{name}")
    system += [name for name in _ETC if (root / name.lstrip("/")).exists()]
    links.append(("/etc/os-release", "../usr/lib/os-release"))
    return tuple(links), tuple(system)
