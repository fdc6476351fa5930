"""A project folder as a tar.gz: the same bytes for the same files, and nothing that the server would refuse."""

from __future__ import annotations

import contextlib
import gzip
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from hearth.client.ignore import NEEDED, Rules, default_rules
from hearth.core.errors import InvalidSource, TooLarge
from hearth.core.limits import (
    MIB,
    SOURCE_FILES_MAX,
    SOURCE_PACKED_MAX,
    SOURCE_UNPACKED_MAX,
    format_size,
)

_LEAVE_OUT = "leave it out with a line in .hearthignore"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to pack. `name` is relative, with ``/``; `size` is in bytes, 0 for folders and links."""

    name: str
    path: Path
    kind: str  # file | folder | link
    size: int
    executable: bool
    target: str = ""  # of a link


@dataclass(frozen=True, slots=True)
class Packed:
    """What was packed: number of entries, bytes before and after."""

    files: int
    unpacked: int
    packed: int


def scan(root: Path) -> list[Entry]:
    """What of a project is packed, in the order of names.

    Raises:
        InvalidSource: no function.yaml; a link that leaves the folder, a device, a name that is no UTF-8.
        TooLarge: more files or bytes than a source may have.
        OSError: something can't be read.
    """
    if not (root / NEEDED).is_file():
        raise InvalidSource(
            f"there is no {NEEDED} in {root}", hint="make a project with: hearth create-function -n NAME"
        )
    entries: list[Entry] = []
    size = 0
    for entry in _walk(root, root.resolve(), "", default_rules()):
        entries.append(entry)
        size += entry.size
        if len(entries) > SOURCE_FILES_MAX:  # at once: somebody may have named their home folder
            raise TooLarge(
                f"the project has more than {SOURCE_FILES_MAX:,} files",
                hint="leave out what the function does not need with a .hearthignore",
            )
        if size > SOURCE_UNPACKED_MAX:
            raise TooLarge(
                f"the project is larger than {format_size(SOURCE_UNPACKED_MAX)}", hint=_largest(entries)
            )
    return entries


def pack_folder(root: Path, archive: Path) -> Packed:
    """Write the project's archive. Raises as `scan` does, and TooLarge when the archive itself is too large."""
    entries = scan(root)
    with archive.open("wb") as out:
        write(entries, out)
    size = archive.stat().st_size
    if size > SOURCE_PACKED_MAX:
        raise TooLarge(
            f"the packed project is {size // MIB} MiB, and {format_size(SOURCE_PACKED_MAX)} is the most",
            hint=_largest(entries),
        )
    return Packed(len(entries), sum(entry.size for entry in entries), size)


def _largest(entries: list[Entry]) -> str:
    largest = max(entries, key=lambda entry: entry.size)
    return f"the largest file is {largest.name} ({largest.size / MIB:.1f} MiB): {_LEAVE_OUT}"


def write(entries: list[Entry], out: BinaryIO) -> None:
    """Write entries as tar.gz without times, owners and odd modes.

    Raises:
        InvalidSource: a file changed while it was read.
        OSError: it can't be read, or `out` can't be written.
    """
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=out, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.mode = 0o755 if entry.executable or entry.kind == "folder" else 0o644
            if entry.kind == "folder":
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif entry.kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, entry.target
                tar.addfile(info)
            else:
                info.size = entry.size
                with entry.path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size != entry.size:
                        raise InvalidSource(f"{entry.name} changed while it was packed", hint="try again")
                    tar.addfile(info, file)


def _walk(folder: Path, root: Path, prefix: str, outer: Rules) -> Iterator[Entry]:
    rules = outer.entering(folder, prefix.count("/"))
    with os.scandir(folder) as scanned:
        found = sorted(scanned, key=lambda item: item.name)
    for item in found:
        name = prefix + item.name
        is_folder = item.is_dir(follow_symlinks=False)
        if rules.ignores(name, folder=is_folder):
            continue
        if not _is_utf8(item.name):
            raise InvalidSource(
                f"the name {os.fsencode(name)!r} is not UTF-8", hint=f"rename it, or {_LEAVE_OUT}"
            )
        path = Path(item.path)
        if item.is_symlink():
            yield Entry(name, path, "link", 0, False, _link_target(path, name, root))
        elif is_folder:
            yield Entry(name, path, "folder", 0, False)
            yield from _walk(path, root, name + "/", rules)
        else:
            status = item.stat(follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidSource(f"{name} is no file, folder or link", hint=_LEAVE_OUT)
            yield Entry(name, path, "file", status.st_size, bool(status.st_mode & 0o100))


def _link_target(path: Path, name: str, root: Path) -> str:
    """What a link points to, once it is sure that it stays in the tree, as it is written and as it resolves here."""
    target = os.readlink(path)  # noqa: PTH115 - as it is written, which Path would tidy up
    stays = not target.startswith("/") and _stays_inside(PurePosixPath(name).parent, target)
    with contextlib.suppress(RuntimeError):  # a circle of links: points nowhere, and so not outside
        stays = stays and path.resolve().is_relative_to(root)
    if not stays or not _is_utf8(target):
        raise InvalidSource(
            f"the link {name} leaves the project (to {target!r})",
            hint=f"copy what it points to, or {_LEAVE_OUT}",
        )
    return target


def _stays_inside(folder: PurePosixPath, target: str) -> bool:
    depth = len(folder.parts)
    for part in target.split("/"):
        depth += {"..": -1, ".": 0, "": 0}.get(part, 1)
        if depth < 0:
            return False
    return True


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
