"""What all sandboxes of one driver share, and what the host's own system looks like inside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from hearth.core.errors import SandboxFailed, StartupFailed
from hearth.drivers.bubblewrap import cgroup_tree, guard
from hearth.drivers.bubblewrap.cgroups import Groups
from hearth.drivers.bubblewrap.leftovers import remove_leftovers
from hearth.drivers.bubblewrap.needs import find_tools
from hearth.drivers.bubblewrap.rundir import prepare_run_directory, remove_run_directory
from hearth.drivers.common import mounts, seccomp
from hearth.drivers.common.disk import Disks
from hearth.drivers.common.seccomp import Filters
from hearth.drivers.common.sources import Sources
from hearth.drivers.common.uids import OwnUid, Uids, take_block
from hearth.ports.egress import Networks

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
    undo: gives everything back.
    tools: paths of sh, setpriv, unshare and bwrap.
    links, system: see `argv.Layout`.
    networks: None: only ``network: none``.
    """

    slots: Path
    groups: Groups
    uids: Uids
    disks: Disks
    sources: Sources
    filters: Filters
    networks: Networks | None
    tools: dict[str, str]
    links: tuple[tuple[str, str], ...]
    system: tuple[str, ...]
    undo: ExitStack


async def open_machine(
    instance: str,
    run: Path,
    data: Path,
    folders: Mapping[str, Path],
    prefixes: tuple[str, ...],
    networks: Networks | None,
) -> Machine:
    """Remove what an earlier keeper of this instance left, then take uids, groups and the slots' tmpfs.

    Raises StartupFailed when this machine can't do it; then nothing is left.
    """
    tools = find_tools()
    with ExitStack() as undo:
        try:
            mounts.become_subreaper()
            root = os.geteuid() == 0
            groups = cgroup_tree.detect(instance) if root else cgroup_tree.detect_own(instance)
            await remove_leftovers(groups)
            undo.callback(groups.close)
            groups.open()
            if root:  # an ordinary user's keeper is process 1 of a namespace, and the kernel is its guard
                undo.callback((await guard.start(groups, tools["sh"])).close)
            filters = seccomp.build()
            undo.callback(remove_run_directory, run)
            shims = prepare_run_directory(run, folders.get("shim"))
            uids = take_block(instance) if root else OwnUid()
            undo.callback(uids.close)
            disks = Disks(data / "disks", uids)
            disks.leftovers()
            disks.open()
            sources = Sources(folders if shims is None else {**folders, "shim": shims}, prefixes)
            undo.callback(sources.close)
        except (OSError, ImportError, RuntimeError, SandboxFailed) as error:
            raise StartupFailed(
                f"sandboxes can't be made here: {error}",
                hint="run: hearth doctor",
            ) from error
        links, system = host_layout()
        return Machine(
            slots=run / "slots",
            groups=groups,
            uids=uids,
            disks=disks,
            sources=sources,
            filters=filters,
            networks=networks,
            tools=tools,
            links=links,
            system=system,
            undo=undo.pop_all(),
        )


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
