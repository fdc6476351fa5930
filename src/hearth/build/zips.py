"""Zip read strictly (PKWARE APPNOTE 6.3): one reading of the file is possible, or it is refused.

The entries must tile the file: the first begins at byte 0, each next where the one before ends, then the central
directory, then its end record, then the end of the file. So there are no hidden or overlapping
entries, no data before or between, and no second directory that another tool would prefer. `zipfile`
accepts all of these, and makes an object of each of a million empty entries before it can be asked.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from hearth.build.tars import CHUNK, broken
from hearth.build.tree import PATH_MAX, Caps, Kind, refuse
from hearth.core.errors import TooLarge

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR, _PATCHED, _STRONG, _UTF8, _MASKED = 1, 8, 0x20, 0x40, 0x800, 0x2000
_SAME_FLAGS = _ENCRYPTED | _DESCRIPTOR | _STRONG | _UTF8 | _MASKED
_UNIX = (3, 19)  # "version made by" of systems whose upper attribute bits are st_mode: Unix, OS X
_EXTRA_ZIP64, _EXTRA_UNICODE_PATH = 0x0001, 0x7075


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One file of the central directory, its place in the file checked."""

    name: str
    kind: Kind
    executable: bool
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    flags: int
    raw_name: bytes
    data: int = 0  # where its bytes begin


def read_directory(file: BinaryIO, length: int, caps: Caps) -> list[ZipEntry]:
    """The entries in the order of the file, every header checked. Raises InvalidSource, TooLarge."""
    count, size, start = _end_record(file, length)
    if count > 2 * caps.files:
        raise TooLarge(f"more than {caps.files:,} files or folders", details={"limit": caps.files})
    file.seek(start)
    data = file.read(size)
    entries, at = [], 0
    for _ in range(count):
        entry, at = _central(data, at)
        entries.append(entry)
    if at != size:
        raise broken("its directory has a wrong length")
    entries.sort(key=lambda entry: entry.offset)
    placed, expected = [], 0
    for entry in entries:
        if entry.offset != expected:
            refuse(entry.name, "overlaps another, or hidden data lies before it", "pack it again")
        begin, expected = _local(file, entry, start)
        placed.append(replace(entry, data=begin))
    if expected != start:
        raise broken("hidden data lies before its directory")
    return placed


def _end_record(file: BinaryIO, length: int) -> tuple[int, int, int]:
    tail_size = min(length, _END.size + 0xFFFF)
    file.seek(length - tail_size)
    tail = file.read(tail_size)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise broken("it is no zip file, or cut off")
    _, disk, start_disk, here, count, size, start, comment = _END.unpack_from(tail, at)
    where = length - tail_size + at
    if where + _END.size + comment != length:
        raise broken("there is something after its end")
    if 0xFFFF in (disk, start_disk, here, count) or 0xFFFFFFFF in (size, start):
        raise broken("zip64 is not read here: below 50 MiB nothing needs it")
    if disk or start_disk or here != count:
        raise broken("it is one part of several")
    if start + size != where:
        raise broken("something lies before or behind its directory")
    return count, size, start


def _central(data: bytes, at: int) -> tuple[ZipEntry, int]:
    if len(data) - at < _CENTRAL.size:
        raise broken("its directory is cut off")
    (magic, made, _need, flags, method, _time, _date, crc, packed, size) = _CENTRAL.unpack_from(data, at)[:10]
    name_size, extra_size, comment_size, disk, _internal, external, offset = _CENTRAL.unpack_from(data, at)[
        10:
    ]
    end = at + _CENTRAL.size + name_size + extra_size + comment_size
    if magic != b"PK\x01\x02" or end > len(data):
        raise broken("its directory makes no sense")
    name_at = at + _CENTRAL.size
    raw = data[name_at : name_at + name_size]
    if name_size > PATH_MAX + 2:
        refuse(raw[:200].decode("utf-8", "replace"), f"has a path longer than {PATH_MAX} bytes")
    try:
        name = raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        refuse(raw.decode("cp437"), "has a path that is not UTF-8", "pack it with tar")
    if "\0" in name:
        refuse(name, "has a NUL in its path")
    if flags & (_ENCRYPTED | _STRONG | _MASKED):
        refuse(name, "is encrypted", "pack it without a password")
    if flags & _PATCHED or method not in (0, 8):
        refuse(name, f"is packed by method {method}, which is not read here", "pack it with deflate")
    if 0xFFFFFFFF in (packed, size, offset) or disk:
        refuse(name, "needs zip64, which is not read here", "pack it as tar.gz")
    _extras(name, raw, data[name_at + name_size : name_at + name_size + extra_size])
    mode = external >> 16 if made >> 8 in _UNIX else 0
    kind = _kind(name, mode, size)
    if method == 0 and packed != size:
        refuse(name, "has two different sizes")
    executable = kind == "file" and bool(mode & 0o111)
    return ZipEntry(name, kind, executable, method, crc, packed, size, offset, flags, raw), end


def _kind(name: str, mode: int, size: int) -> Kind:
    form = stat.S_IFMT(mode)
    if name.endswith("/"):
        if form not in (0, stat.S_IFDIR) or size:
            refuse(name, "is a file with a folder's name")
        return "dir"
    if form == stat.S_IFLNK:
        if not 0 < size <= PATH_MAX:
            refuse(name, f"is a link whose target is empty or longer than {PATH_MAX} bytes")
        return "link"
    if form not in (0, stat.S_IFREG):
        refuse(name, "is neither a file, a folder nor a link")
    if mode & 0o6000:
        refuse(name, "has the setuid or setgid bit", "take it off: chmod a-s")
    return "file"


def _extras(name: str, raw: bytes, extra: bytes) -> None:
    at = 0
    while at + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, at)
        if kind == _EXTRA_ZIP64:
            refuse(name, "needs zip64, which is not read here", "pack it as tar.gz")
        if kind == _EXTRA_UNICODE_PATH and extra[at + 9 : at + 4 + size] != raw:
            refuse(name, "has two different names")
        at += 4 + size


def _local(file: BinaryIO, entry: ZipEntry, limit: int) -> tuple[int, int]:
    """Where an entry's bytes begin and where what belongs to it ends; its own header must agree with the directory."""
    file.seek(entry.offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size:
        raise broken("it is cut off")
    magic, _need, flags, method, _time, _date, crc, packed, size, name_size, extra_size = _LOCAL.unpack(head)
    raw = file.read(name_size)
    extra = file.read(extra_size)
    begin = entry.offset + _LOCAL.size + name_size + extra_size
    end = begin + entry.packed
    stated = (crc, packed, size)
    true = (entry.crc, entry.packed, entry.size)
    if magic != b"PK\x03\x04" or raw != entry.raw_name or method != entry.method or end > limit:
        refuse(entry.name, "is described differently in two places", "pack it again")
    if (flags ^ entry.flags) & _SAME_FLAGS or not (
        stated == true or (flags & _DESCRIPTOR and not any(stated))
    ):
        refuse(entry.name, "is described differently in two places", "pack it again")
    _extras(entry.name, raw, extra)
    if flags & _DESCRIPTOR:
        file.seek(end)
        after = file.read(16)
        described = struct.pack("<3L", *true)
        if after == b"PK\x07\x08" + described:
            end += 16
        elif after[:12] == described:
            end += 12
        else:
            refuse(entry.name, "is described differently in two places", "pack it again")
    return begin, end


def content(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    """The bytes of an entry, exactly as many as it says, its checksum checked. Raises InvalidSource."""
    file.seek(entry.data)
    left, out, crc = entry.packed, 0, 0
    if not left and not entry.size and not entry.crc:
        return  # nothing at all, as some write folders and empty files, whatever method they name
    inflate = zlib.decompressobj(-15) if entry.method == 8 else None
    pending = b""
    while left or pending:
        if not pending:
            pending = file.read(min(left, CHUNK))
            if not pending:
                raise broken("it is cut off")
            left -= len(pending)
        if inflate is None:
            data, pending = pending, b""
        else:
            try:
                data = inflate.decompress(pending, CHUNK)
            except zlib.error:
                refuse(entry.name, "is damaged", "pack it again")
            pending = inflate.unconsumed_tail
            if inflate.eof and (inflate.unused_data or left):
                refuse(entry.name, "has hidden data behind its content")
        out += len(data)
        crc = zlib.crc32(data, crc)
        if out > entry.size:
            refuse(entry.name, "is larger than it says")
        if data:
            yield data
    while inflate is not None and not inflate.eof:
        # The last input may have filled more than one chunk of output.
        data = inflate.decompress(b"", CHUNK)
        if not data:
            refuse(entry.name, "is damaged", "pack it again")
        out += len(data)
        crc = zlib.crc32(data, crc)
        if out > entry.size:
            refuse(entry.name, "is larger than it says")
        yield data
    if out != entry.size or crc != entry.crc:
        refuse(entry.name, "is damaged", "pack it again")
