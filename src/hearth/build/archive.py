"""Archives taken apart: hostile bytes in, a clean tree out, or nothing.

Uploads (zip, tar.gz) are read twice: everything is checked before a byte is written. A build's output comes as one tar
stream and is read once. Links are made last, when all are known to stay inside, so nothing is ever
written through one.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from hearth.build import tars, zips
from hearth.build.tars import Member, broken
from hearth.build.tree import ARTIFACT_CAPS, SOURCE_CAPS, Caps, Tree, refuse, show
from hearth.core.disk import refusal
from hearth.core.errors import HearthError, InvalidSource

Form = Literal["zip", "tar.gz"]
MEMBERS_MAX = 10_000  # parts of one gzip file
MAGIC: dict[Form, bytes] = {"zip": b"PK", "tar.gz": b"\x1f\x8b"}


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out: files and links, bytes."""

    files: int
    size: int


def unpack_upload(packed: Path, form: Form, dest: Path, caps: Caps = SOURCE_CAPS) -> Unpacked:
    """Unpack an uploaded archive into an empty folder; blocking, so call it in a thread.

    Files become 0644 or, with any exec bit, 0755; folders 0755; owner and times are not taken over. On any
    error the folder is empty again. A single top folder is not unwrapped.

    Args:
        packed: the archive, in a place where nobody else writes.
        form: ``zip`` or ``tar.gz``.
        dest: an existing, empty folder.
        caps: what it may be at most.

    Raises:
        InvalidSource: with ``details["entry"]`` where one entry is at fault.
        TooLarge: too many bytes or files.
        PlatformError: this machine could not write it (disk full).
    """
    with packed.open("rb") as file:
        length = os.fstat(file.fileno()).st_size
        if file.read(2) != MAGIC[form]:
            raise InvalidSource(f"what was sent is no {form} archive", hint=f"send a {form} archive")
        checked = _members(file, length, form, caps)
        tree = Tree(caps)
        for _, member in _checked(checked, tree):
            for data in member.chunks:
                tree.grow(member.name, len(data))
                tree.check_ratio(member.name, tree.total, length)
        tree.check_links()
        return _write(_members(file, length, form, caps), dest, caps)


def unpack_stream(read: tars.Read, dest: Path, caps: Caps = ARTIFACT_CAPS) -> Unpacked:
    """Unpack a plain tar stream, such as a build's output, into an empty folder; blocking.

    `read` gives up to n bytes, fewer only before the end. On any error the folder is empty again. Raises what
    `unpack_upload` raises.
    """
    return _write(_tar_members(read, caps), dest, caps)


def _members(file: BinaryIO, length: int, form: Form, caps: Caps) -> Iterator[Member]:
    if form == "zip":
        entries = zips.read_directory(file, length, caps)
        if caps.ratio:  # all that it says of itself, before anything is unpacked
            total = sum(entry.size for entry in entries)
            Tree(caps).check_ratio(entries[-1].name if entries else "", total, length)
        return _zip_members(file, entries)
    file.seek(0)
    return _gzip_members(file, length, caps)


def _zip_members(file: BinaryIO, entries: Iterable[zips.ZipEntry]) -> Iterator[Member]:
    for entry in entries:
        target = ""
        chunks = zips.content(file, entry)
        if entry.kind == "link":
            try:
                target = b"".join(chunks).decode("utf-8", "strict")
            except UnicodeDecodeError:
                refuse(entry.name, "is a link whose target is not UTF-8")
            chunks = iter(())
        yield Member(entry.name, entry.kind, entry.executable, entry.size, target, chunks)


def _gzip_members(file: BinaryIO, length: int, caps: Caps) -> Iterator[Member]:
    yield from _tar_members(GzipReader(file).read, caps, length)


class GzipReader:
    """Gzip (RFC 1952) inflated piece by piece, several members one after another as `pigz` and `bgzip` write them.

    Not `gzip.GzipFile`: that reads a header's file name byte by byte, however many megabytes it has.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._inflate = zlib.decompressobj(wbits=31)
        self._input = b""
        self._members = 1

    def read(self, count: int) -> bytes:
        """Up to `count` (more than 0) bytes; empty only at the end. Raises InvalidSource."""
        while True:
            if self._inflate.eof:
                self._input = self._inflate.unused_data or self._file.read(tars.CHUNK)
                if not self._input:
                    return b""
                self._members += 1
                if self._members > MEMBERS_MAX:
                    raise broken("it has too many parts")
                self._inflate = zlib.decompressobj(wbits=31)
            if not self._input:
                self._input = self._file.read(tars.CHUNK)
            try:
                data = self._inflate.decompress(self._input, count)
            except zlib.error:
                raise broken("its compression is damaged") from None
            ended = not self._input and not data and not self._inflate.eof
            self._input = self._inflate.unconsumed_tail
            if data:
                return data
            if ended:
                raise broken("it is cut off")


def _tar_members(read: tars.Read, caps: Caps, packed: int = 0) -> Iterator[Member]:
    """Tar entries whose headers and fill count too: a stream of headers alone swells as well as any other."""
    counter = Tree(caps)
    produced = 0

    def counted(count: int) -> bytes:
        nonlocal produced
        data = read(count)
        produced += len(data)
        if packed:
            counter.check_ratio(None, produced, packed)
        return data

    yield from tars.members(counted, lambda name, size: counter.grow(name, size))


def _checked(members: Iterator[Member], tree: Tree) -> Iterator[tuple[str, Member]]:
    for member in members:
        path = tree.add(member.name, member.kind)
        if member.kind == "link":
            tree.link(member.name, path, member.target)
        if member.size > tree.caps.total - tree.total:
            tree.grow(member.name, member.size)  # says so before its bytes are read
        yield path, member


def _write(members: Iterator[Member], dest: Path, caps: Caps) -> Unpacked:
    tree = Tree(caps)
    try:
        for path, member in _checked(members, tree):
            if member.kind == "dir" and path:
                _folder(dest, path)
            elif member.kind == "file":
                _file(dest, path, member, tree)
        tree.check_links()
        for path, target in tree.links.items():
            _folder(dest, path.rpartition("/")[0])
            (dest / path).symlink_to(target)
    except BaseException as error:
        # Whatever it was, cancellation included: nothing may be left of a refused archive.
        empty(dest)
        if isinstance(error, OSError) and not isinstance(error, HearthError):
            raise refusal(error, "the archive could not be written") from error
        raise
    return Unpacked(tree.files, tree.total)


def _folder(dest: Path, path: str) -> None:
    """Make a folder and those above it, 0755 whatever the umask is."""
    if not path:
        return
    folder = dest / path
    try:
        folder.mkdir(0o755)
    except FileExistsError:
        return
    except FileNotFoundError:
        _folder(dest, path.rpartition("/")[0])
        folder.mkdir(0o755)
    folder.chmod(0o755)


def _file(dest: Path, path: str, member: Member, tree: Tree) -> None:
    _folder(dest, path.rpartition("/")[0])
    fd = os.open(dest / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = 0
        for data in member.chunks:
            size += len(data)
            tree.grow(member.name, len(data))
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        if size != member.size:
            raise broken(f"{show(member.name)} is cut off")
        os.fchmod(fd, 0o755 if member.executable else 0o644)
    finally:
        os.close(fd)


def empty(folder: Path) -> None:
    """Remove all that is in a folder, not the folder."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()
