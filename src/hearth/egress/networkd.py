"""Keeping systemd-networkd's hands off the links of sandboxes.

A machine whose configuration matches every Ethernet link (``[Match] Type=ether``, or ``Name=*``) takes each new veth for a
network card: networkd asks for an address on it by DHCP, into the sandbox, and removes the route that leads there, so that no
function reaches anything (seen with systemd 252). A file that says *unmanaged* and sorts before all others ends that
(systemd.network(5)). NetworkManager leaves veths alone by itself.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

from hearth.linux.commands import has_systemd

log = logging.getLogger(__name__)

FOLDER = Path("/run/systemd/network")
_TIMEOUT = 30.0  # seconds; each takes milliseconds
_TEXT = """# Made by Hearth while it runs: these links belong to its sandboxes.
[Match]
Name={prefix}*

[Link]
Unmanaged=yes
"""


def file_for(prefix: str, folder: Path = FOLDER) -> Path:
    """Where it stands, for the links whose names begin like this."""
    return folder / f"00-{prefix}.network"


def keep_out(prefix: str, folder: Path = FOLDER) -> None:
    """Write the file where systemd runs the machine, and tell networkd if it is at work; before the first link is made.

    What fails is a warning: most machines name the links that they configure, and need none of this.
    """
    if not has_systemd():
        return
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o755)  # networkd is not root, and a umask may have been strict
        file = file_for(prefix, folder)
        file.write_text(_TEXT.format(prefix=prefix))
        file.chmod(0o644)
        if _run("systemctl", "is-active", "--quiet", "systemd-networkd").returncode == 0:
            told = _run("networkctl", "reload")
            if told.returncode != 0:
                raise OSError(told.stderr.strip() or f"networkctl ended with exit code {told.returncode}")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning(
            "systemd-networkd could not be told to leave the links of sandboxes alone: %s; if functions reach nothing, "
            "have its files name the links that are its own",
            error,
        )


def withdraw(prefix: str, folder: Path = FOLDER) -> None:
    """Remove the file; none there is no error. networkd forgets it when it next reads its files."""
    file_for(prefix, folder).unlink(missing_ok=True)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """Raises OSError, TimeoutExpired."""
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
