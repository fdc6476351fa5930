"""What the networks of an ordinary user's sandboxes need of this machine, and the command that mends what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hearth.core.finding import Finding, not_held, ok
from hearth.egress.nft import Library, NftMissing
from hearth.egress.slirp import MAKE_TUN, PROGRAM
from hearth.linux.commands import install

TUN = Path("/dev/net/tun")


def network_findings(tun: Path = TUN, search: str = "/usr/local/bin:/usr/bin:/bin") -> list[Finding]:
    """All that `network: internet` of an ordinary user depends on. Opens files, changes nothing.

    Args:
        tun: the device that makes tap devices.
        search: where programs are looked for.
    """
    found = []
    program = shutil.which(PROGRAM, path=search)
    if program is None:
        found.append(not_held("slirp4netns", "slirp4netns is not installed", install("slirp4netns")))
    else:
        found.append(ok("slirp4netns", program))
    found.append(_tun(tun))
    try:
        Library().close()
        found.append(ok("nftables", "libnftables"))
    except NftMissing as error:
        found.append(not_held("nftables", str(error), install("libnftables1")))
    return found


def _tun(tun: Path) -> Finding:
    name = "tun device"
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"{tun} can't be opened by an ordinary user: {error.strerror}"
        return not_held(name, why, MAKE_TUN)
    return ok(name, str(tun))
