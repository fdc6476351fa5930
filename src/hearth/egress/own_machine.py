"""What the networks of an ordinary user's sandboxes need of this machine, and the command that mends what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hearth.core.finding import Finding
from hearth.egress.nft import Library, NftMissing
from hearth.egress.slirp import PROGRAM

TUN = Path("/dev/net/tun")
_RULE = (
    "sudo modprobe tun; sudo chmod 0666 /dev/net/tun"  # udev's own rules make it so; containers often don't
)


def network_findings(tun: Path = TUN, search: str = "/usr/local/bin:/usr/bin:/bin") -> list[Finding]:
    """All that `network: internet` of an ordinary user depends on. Opens files, changes nothing.

    Args:
        tun: the device that makes tap devices.
        search: where programs are looked for.
    """
    found = []
    program = shutil.which(PROGRAM, path=search)
    if program is None:
        found.append(
            Finding("slirp4netns", False, "slirp4netns is not installed", "sudo apt-get install slirp4netns")
        )
    else:
        found.append(Finding("slirp4netns", True, program))
    found.append(_tun(tun))
    try:
        Library().close()
        found.append(Finding("nftables", True, "libnftables"))
    except NftMissing as error:
        found.append(Finding("nftables", False, str(error), "sudo apt-get install libnftables1"))
    return found


def _tun(tun: Path) -> Finding:
    name = "tun device"
    try:
        os.close(os.open(tun, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        why = f"{tun} can't be opened by an ordinary user: {error.strerror}"
        return Finding(name, False, why, _RULE)
    return Finding(name, True, str(tun))
