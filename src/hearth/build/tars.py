"""Tar read block by block (POSIX.1-2017 pax and ustar; GNU long names), from any stream, in bounded memory.

`tarfile` parses the header block; all that moves on from there is here, since tarfile reads extended headers of
any size into memory, skips what it can't read and accepts an archive that was cut off.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hearth.build.tree import Kind, refuse, show
from hearth.core.errors import InvalidSource

BLOCK = 512
CHUNK = 1 << 18
META_MAX = 1 << 16  # bytes of one extended header
PAX_IGNORED_PREFIXES = ("SCHILY.", "LIBARCHIVE.", "MSWINDOWS.", "VENDOR.", "RHT.", "SUN.")

Read = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `chunks` must be read to its end before the next member is asked for."""

    name: str
    kind: Kind
    executable: bool
    size: int
    target: str
    chunks: Iterator[bytes]


def broken(why: str) -> InvalidSource:
    """The error for an archive that is no archive."""
    return InvalidSource(f"the archive can't be read: {why}", hint="pack it again")


def members(read: Read, meta: Callable[[str, int], None]) -> Iterator[Member]:
    """The entries of a tar stream.

    Args:
        read: gives up to n bytes, fewer only before the stream's end.
        meta: told of each entry's extended headers (name, bytes), so that they count.

    Raises InvalidSource.
    """
    pax: dict[str, str] = {}
    long_name = long_link = ""
    while True:
        block = _exactly(read, BLOCK, "it is cut off")
        if not block.strip(b"\0"):
            _check_end(read)
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise broken(f"a header makes no sense ({str(error)[:80]})") from None
        kind = info.type
        if kind in (b"x", b"L", b"K"):
            data = _meta(read, info.name, info.size, meta)
            if kind == b"x":
                pax = _pax(info.name, data)
            elif kind == b"L":
                long_name = _text(info.name, data.removesuffix(b"\0"))
            else:
                long_link = _text(info.name, data.removesuffix(b"\0"))
            continue
        if kind == b"g":  # such as the commit id that `git archive` writes; must not name or size anything
            _pax_global(info.name, _meta(read, info.name, info.size, meta))
            continue
        name = pax.get("path") or long_name or info.name
        if kind == b"5" and not name.endswith("/"):
            name += "/"
        target = pax.get("linkpath") or long_link or info.linkname
        size = _size(name, pax, info.size)
        yield _member(info, name, target, size, read)
        pax, long_name, long_link = {}, "", ""


def _member(info: tarfile.TarInfo, name: str, target: str, size: int, read: Read) -> Member:
    kind = info.type
    if kind == b"1":
        refuse(name, "is a hard link", "pack it as a file of its own (tar --hard-dereference)")
    if kind in (b"3", b"4"):
        refuse(name, "is a device")
    if kind == b"6":
        refuse(name, "is a named pipe")
    if kind in (b"0", b"\0", b"7"):
        if name.endswith("/"):
            refuse(name, "is a file with a folder's name")
        if info.mode & 0o6000:
            refuse(name, "has the setuid or setgid bit", "take it off: chmod a-s")
        return Member(name, "file", bool(info.mode & 0o111), size, "", _data(read, name, size))
    if size:
        refuse(name, "has content though it is no file")
    if kind == b"5":
        return Member(name, "dir", True, 0, "", iter(()))
    if kind != b"2":
        refuse(
            name, f"is of a kind that is not read here ({show(kind.decode('latin-1'))})", "pack plain files"
        )
    return Member(name, "link", False, 0, target, iter(()))


def _exactly(read: Read, count: int, why: str) -> bytes:
    data = b""
    while len(data) < count:
        more = read(count - len(data))
        if not more:
            raise broken(why)
        data += more
    return data


def _data(read: Read, name: str, size: int) -> Iterator[bytes]:
    left = size
    while left:
        data = read(min(left, CHUNK))
        if not data:
            raise broken(f"it is cut off inside {show(name)}")
        left -= len(data)
        yield data
    _exactly(read, -size % BLOCK, "it is cut off")


def _check_end(read: Read) -> None:
    """After the first zero block only zeros may follow (tar fills its last record up with them)."""
    while data := read(CHUNK):
        if data.strip(b"\0"):
            raise broken("there is something after its end")


def _meta(read: Read, name: str, size: int, meta: Callable[[str, int], None]) -> bytes:
    if not 0 <= size <= META_MAX:
        refuse(name, f"has an extended header of more than {META_MAX} bytes")
    meta(name, BLOCK + size)
    data = _exactly(read, size, "it is cut off")
    _exactly(read, -size % BLOCK, "it is cut off")
    return data


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        refuse(name, "has a path that is not UTF-8")


def _size(name: str, pax: dict[str, str], plain: int) -> int:
    text = pax.get("size")
    if text is None:
        size = plain
    elif text.isascii() and text.isdigit() and len(text) < 16:
        size = int(text)
    else:
        refuse(name, "has a size that makes no sense")
    if size < 0:
        refuse(name, "has a size that makes no sense")
    return size


def _pax(name: str, data: bytes) -> dict[str, str]:
    """Records ``LENGTH KEY=VALUE\\n``; of them only path, linkpath and size matter here."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        digits = data[at:space] if space > 0 else b""
        if not digits.isdigit() or not (end := at + int(digits)) <= len(data) or data[end - 1 : end] != b"\n":
            refuse(name, "has an extended header that makes no sense")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            refuse(name, "has an extended header that makes no sense")
        if key.startswith(b"GNU.sparse"):
            refuse(name, "is a sparse file", "pack it without holes")
        if key in (b"path", b"linkpath", b"size"):
            found[key.decode()] = _text(name, value)
            if "\0" in found[key.decode()]:
                refuse(name, "has a NUL in its path")
        at = end
    return found


def _pax_global(name: str, data: bytes) -> None:
    if _pax(name, data):
        refuse(name, "is a global header that sets paths or sizes")
