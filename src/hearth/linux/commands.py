"""Shell commands that a person is told to paste: as root they are as they are, for others `sudo` stands before them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

_SHELL = frozenset("|&;<>(){}")  # what makes a line more than one command with its arguments


def by_root(command: str) -> str:
    """A command that root has to run, as this user is to type it."""
    if os.geteuid() == 0:
        return command
    return f"sudo sh -c {shlex.quote(command)}" if _SHELL & set(command) else f"sudo {command}"


def install(*packages: str) -> str:
    """The command that installs packages of Debian's and Ubuntu's."""
    return by_root(f"apt-get install {' '.join(packages)}")


def has_systemd(run: Path = Path("/run/systemd/system")) -> bool:
    """Whether systemd runs this machine (sd_booted(3)), so that its commands work."""
    return run.is_dir()
