"""Reading and writing the kernel's control files."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, value: str) -> None:
    """Write a control file in one write(2), so that the kernel's refusal is this call's OSError.

    With a buffered file the refusal comes at close, from wherever that happens.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def write_if_there(path: Path, value: str) -> bool:
    """Write where this kernel has the file and takes the value; tells whether it did."""
    try:
        write(path, value)
    except OSError:
        return False
    return True


def number(path: Path, default: int = 0) -> int:
    """The integer in a control file; the default where the file is missing or says ``max``."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return default


def field(path: Path, key: str) -> int:
    """The number behind a key in a file of ``key number`` lines; 0 where it is missing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
