"""The digest of a tree: equal for equal content, whatever its owner, times and order on the disk."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hearth.core.errors import InvalidSource

_CHUNK = 1 << 20


def tree_digest(root: Path) -> str:
    """``sha256`` in hex over every path below `root`, in the order of their bytes.

    Each entry counts with its kind (folder, file, executable file, link), its path and the length and bytes of its
    content (a link's is its target), so that no two trees give the same stream. Raises InvalidSource for anything that
    is no file, folder or link; OSError when it can't be read.
    """
    total = hashlib.sha256(b"hearth tree 1\n")
    for path, entry in sorted(_walk(os.fsencode(root), b"")):
        mode = os.lstat(entry).st_mode
        if stat.S_ISDIR(mode):
            total.update(_head(b"d", path, 0))
        elif stat.S_ISLNK(mode):
            target = os.readlink(entry)  # noqa: PTH115 (Path takes no bytes)
            total.update(_head(b"l", path, len(target)) + target)
        elif stat.S_ISREG(mode):
            _file(total, b"x" if mode & 0o111 else b"f", path, entry)
        else:
            raise InvalidSource("the tree has something that is no file, folder or link")
    return total.hexdigest()


def _head(kind: bytes, path: bytes, size: int) -> bytes:
    return b"%s %d %d\n%s\n" % (kind, len(path), size, path)


def _file(total: hashlib._Hash, kind: bytes, path: bytes, entry: bytes) -> None:
    with open(entry, "rb") as file:
        total.update(_head(kind, path, os.fstat(file.fileno()).st_size))
        while data := file.read(_CHUNK):
            total.update(data)


def _walk(folder: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            yield path, entry.path
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, path + b"/")
