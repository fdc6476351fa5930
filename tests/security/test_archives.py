"""Hostile archives: refused whole, with the entry's name, and nothing written anywhere."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hearth.build.archive import Form, unpack_stream, unpack_upload
from hearth.build.tree import Caps, Tree, check_name
from hearth.core.errors import HearthError, InvalidSource, TooLarge

SMALL = Caps(total=1 << 20, files=50, ratio=100, ratio_free=1 << 16, looks=True)


def tar_of(*members: tuple[str, dict[str, object]], pax: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=pax) as tar:
        for name, fields in members:
            info = tarfile.TarInfo(name)
            data = fields.get("data", b"")
            assert isinstance(data, bytes)
            info.size = len(data)
            for key, value in fields.items():
                if key != "data":
                    setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(*entries: tuple[str, int, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, mode, data in entries:
            info = zipfile.ZipInfo("x" * len(name))
            info.filename = name  # the constructor would cut it at NUL
            info.external_attr = mode << 16
            info.create_system = 3
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, data)
    return out.getvalue()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder three deep, so that what climbs out is found."""
    inner = tmp_path / "a" / "b" / "dest"
    inner.mkdir(parents=True)
    yield inner
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "a",
        "a/b",
        "a/b/dest",
    ]


def refused(
    place: Path, data: bytes, form: Form, error: type[HearthError] = InvalidSource, caps: Caps = SMALL
) -> HearthError:
    with tempfile.TemporaryDirectory() as folder:
        packed = Path(folder) / "packed"
        packed.write_bytes(data)
        with pytest.raises(error) as caught:
            unpack_upload(packed, form, place, caps)
    return caught.value


def refused_tar(
    place: Path, data: bytes, error: type[HearthError] = InvalidSource, caps: Caps = SMALL
) -> HearthError:
    """Both ways: as an upload and as a build's output."""
    stream = io.BytesIO(data)
    with pytest.raises(error):
        unpack_stream(stream.read, place, caps)
    assert list(place.iterdir()) == []
    return refused(place, gzip.compress(data, 1), "tar.gz", error, caps)


NAMES = [
    "/etc/passwd",
    "//etc/passwd",
    "../x",
    "a/../../x",
    "a/..",
    "..",
    ".//x",
    "a//b",
    "a/./b",
    "a\\b",
    "..\\x",
    "a\nb",
    "a\x1b[2Jb",
    "a\x7f",
    "a\u0085b",
    "x" * 256,
    "/".join("d" * 100 for _ in range(11)),
    "/".join("d" for _ in range(65)),
]


@pytest.mark.parametrize("name", NAMES)
def test_names(place: Path, name: str) -> None:
    ok = ("fine.txt", {"data": b"x"})
    assert "entry" in refused_tar(place, tar_of(ok, (name, {"data": b"x"}))).details
    assert "entry" in refused(place, zip_of(("fine.txt", 0o644, b"x"), (name, 0o644, b"x")), "zip").details


@pytest.mark.parametrize("name", ["a\0b", "\0", "../x\0.txt"])
def test_nul_in_names(place: Path, name: str) -> None:
    refused(place, zip_of((name, 0o644, b"x")), "zip")
    data = tar_of(("x", {"pax_headers": {"path": name}}))
    assert name.encode() in data
    refused_tar(place, data)


def test_names_that_are_not_utf8(place: Path) -> None:
    refused_tar(place, tar_of(("aXb", {})).replace(b"aXb", b"a\xffb").replace(b"", b"", 1))
    refused(place, zip_of(("aXb", 0o644, b"")).replace(b"aXb", b"a\xffb"), "zip")


def test_the_message_has_no_control_characters(place: Path) -> None:
    error = refused(place, zip_of(("a\x1b[31m\nb", 0o644, b"")), "zip")
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a"), ("a", "./a"), ("a/b", "a/b"), ("a", "a/b"), ("a/b", "a"), ("d/", "d"), ("d", "d/"), ("d/", "d/"), ("a/b/c", "a/b"), ("café", "cafe\u0301")],
)  # fmt: skip
def test_duplicates_and_conflicts(place: Path, first: str, second: str) -> None:
    warnings.simplefilter("ignore", UserWarning)  # zipfile's own, of duplicates
    entries = [(name, 0o755, b"" if name.endswith("/") else b"x") for name in (first, second)]
    refused(place, zip_of(*entries), "zip")
    kinds = [
        (name, {"type": tarfile.DIRTYPE} if name.endswith("/") else {"data": b"x"})
        for name in (first, second)
    ]
    refused_tar(place, tar_of(*kinds))


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "..", "../x", "a/../../../x", "d/up/../../x", "l", "", "a\nb", "a\\b", "x/" * 65 + "x"],
)
def test_links(place: Path, target: str) -> None:
    """`d/up` leads to the root: what goes up behind it climbs higher than its text says."""
    tree: list[tuple[str, dict[str, object]]] = [
        ("d/up", {"type": tarfile.SYMTYPE, "linkname": ".."}),
        ("l", {"type": tarfile.SYMTYPE, "linkname": target}),
    ]
    if target:
        refused_tar(place, tar_of(*tree))
    refused(place, zip_of(("d/up", 0o120777, b".."), ("l", 0o120777, target.encode())), "zip")


def test_nothing_is_written_through_a_link(place: Path) -> None:
    refused_tar(place, tar_of(("l", {"type": tarfile.SYMTYPE, "linkname": "d"}), ("l/x", {"data": b"x"})))
    refused_tar(place, tar_of(("l/x", {"data": b"x"}), ("l", {"type": tarfile.SYMTYPE, "linkname": "d"})))
    refused(place, zip_of(("l", 0o120777, b"d"), ("l/x", 0o644, b"x")), "zip")


def test_link_bombs_end(place: Path) -> None:
    links = [(f"l{n}", {"type": tarfile.SYMTYPE, "linkname": f"l{n + 1}/../l{n + 1}"}) for n in range(40)]
    refused_tar(place, tar_of(*links))


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.GNUTYPE_SPARSE, ""),
        (b"D", "kind"),
        (b"V", "kind"),
    ],
)
def test_kinds(place: Path, kind: bytes, why: str) -> None:
    assert (
        why
        in refused_tar(place, tar_of(("a", {"data": b"x"}), ("b", {"type": kind, "linkname": "a"}))).message
    )


@pytest.mark.parametrize("mode", [0o10644, 0o20666, 0o60666, 0o140777, 0o104755, 0o102755])
def test_kinds_in_zip(place: Path, mode: int) -> None:
    refused(place, zip_of(("a", mode, b"x")), "zip")


def test_setuid(place: Path) -> None:
    refused_tar(place, tar_of(("a", {"data": b"x", "mode": 0o4755})))
    refused_tar(place, tar_of(("a", {"data": b"x", "mode": 0o2755})))


@pytest.mark.parametrize("key", ["GNU.sparse.map", "GNU.sparse.major", "GNU.sparse.name"])
def test_sparse_by_pax(place: Path, key: str) -> None:
    refused_tar(place, tar_of(("a", {"data": b"x", "pax_headers": {key: "1"}})))


@pytest.mark.parametrize("size", ["-1", "9999999999999999999", "x", "٣"])
def test_pax_sizes(place: Path, size: str) -> None:
    refused_tar(place, tar_of(("a", {"data": b"x", "pax_headers": {"size": size}})))


def test_pax_of_the_whole_archive(place: Path) -> None:
    refused_tar(place, tar_of(("a", {"data": b"x"}), pax={"path": "../b"}))


def test_long_headers(place: Path) -> None:
    refused_tar(place, tar_of(("a", {"data": b"x", "pax_headers": {"comment": "x" * (1 << 17)}})))
    many = tar_of(*((f"f{n}", {"pax_headers": {"comment": os.urandom(30_000).hex()}}) for n in range(40)))
    refused_tar(place, many, TooLarge)


def test_data_behind_the_end(place: Path) -> None:
    plain = tar_of(("a", {"data": b"x"}))
    refused_tar(place, plain + tar_of(("b", {"data": b"x"})))
    refused(place, gzip.compress(plain) + b"garbage", "tar.gz")
    refused(place, gzip.compress(plain)[:-3], "tar.gz")


def test_bombs(place: Path) -> None:
    zeros = bytes(900_000)
    assert "swells" in refused(place, zip_of(("z", 0o644, zeros)), "zip").message
    message = refused(place, gzip.compress(tar_of(("z", {"data": zeros}))), "tar.gz").message
    assert message == "the archive swells more than 100 times"
    refused(place, gzip.compress(bytes(10_000_000)), "tar.gz")
    random = os.urandom(1 << 20)
    refused(place, zip_of(("z", 0o644, random), ("y", 0o644, b"1")), "zip", TooLarge)
    refused_tar(place, tar_of(("z", {"data": random + b"x"})), TooLarge)
    refused(place, gzip.compress(b"") * 10_001, "tar.gz")
    refused_tar(place, tar_of(*((f"{n}", {}) for n in range(51))), TooLarge)
    refused_tar(place, tar_of(("/".join(f"{n}" for n in range(60)), {})), TooLarge)


def test_a_size_that_lies(place: Path) -> None:
    """The real bytes count, whatever a header says."""
    data = bytearray(zip_of(("a", 0o644, b"x" * 1000)))
    central = data.index(b"PK\x01\x02")
    for at in (22, central + 24):
        struct.pack_into("<L", data, at, 10)
    assert "larger" in refused(place, bytes(data), "zip").message


def stored(
    name: bytes, data: bytes, flags: int = 0, method: int = 0, local: dict[str, object] | None = None
) -> bytes:
    fields = {"name": name, "crc": zlib.crc32(data), "flags": flags, "method": method, "extra": b""} | (
        local or {}
    )
    extra = fields["extra"]
    assert isinstance(extra, bytes)
    head = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, fields["flags"], fields["method"], 0, 0, fields["crc"], len(data), len(data),
        len(fields["name"]), len(extra),
    )  # fmt: skip
    return head + fields["name"] + extra + data  # type: ignore[operator]


def central(
    name: bytes, data: bytes, offset: int, flags: int = 0, method: int = 0, extra: bytes = b""
) -> bytes:
    head = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 20, 20, flags, method, 0, 0, zlib.crc32(data), len(data), len(data),
        len(name), len(extra), 0, 0, 0, 0, offset,
    )  # fmt: skip
    return head + name + extra


def end(count: int, size: int, start: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, start, len(comment)) + comment


def made(
    local: bytes,
    directory: bytes,
    count: int = 1,
    before: bytes = b"",
    between: bytes = b"",
    after: bytes = b"",
) -> bytes:
    start = len(before) + len(local) + len(between)
    return before + local + between + directory + end(count, len(directory), start) + after


def test_the_builders_of_these_tests_make_good_zips(tmp_path: Path) -> None:
    packed, dest = tmp_path / "z", tmp_path / "dest"
    dest.mkdir()
    packed.write_bytes(made(stored(b"a", b"x"), central(b"a", b"x", 0)))
    assert unpack_upload(packed, "zip", dest, SMALL).files == 1


A, DIR_A = stored(b"a", b"x"), central(b"a", b"x", 0)
ZIPS: dict[str, bytes] = {
    "prefix": made(A, central(b"a", b"x", 4), before=b"#!sh"),
    "prefix like a zip": made(A, central(b"a", b"x", 6), before=b"PK\3\4??"),
    "hidden between": made(
        A + b"hidden" + stored(b"b", b"y"), DIR_A + central(b"b", b"y", len(A) + 6), count=2
    ),
    "gap": made(A, DIR_A, between=b"hidden"),
    "after": made(A, DIR_A, after=b"hidden"),
    "hidden entry": made(A + stored(b"b", b"y"), DIR_A),
    "overlap": made(A, DIR_A + central(b"a2", b"x", 0), count=2),
    "other name": made(stored(b"b", b"x"), DIR_A),
    "other crc": made(stored(b"a", b"x", local={"crc": 1}), DIR_A),
    "other method": made(stored(b"a", b"x", local={"method": 8}), DIR_A),
    "other flags": made(stored(b"a", b"x", local={"flags": 1}), DIR_A),
    "encrypted": made(stored(b"a", b"x", flags=1), central(b"a", b"x", 0, flags=1)),
    "strong encryption": made(stored(b"a", b"x", flags=0x41), central(b"a", b"x", 0, flags=0x41)),
    "lzma": made(stored(b"a", b"x", method=14), central(b"a", b"x", 0, method=14)),
    "wrong crc": made(stored(b"a", b"y", local={"crc": zlib.crc32(b"x")}), central(b"a", b"x", 0)),
    "no descriptor": made(stored(b"a", b"x", flags=8), central(b"a", b"x", 0, flags=8)),
    "zip64 extra": made(A, central(b"a", b"x", 0, extra=struct.pack("<HH8x", 1, 8))),
    "zip64 local extra": made(stored(b"a", b"x", local={"extra": struct.pack("<HH8x", 1, 8)}), DIR_A),
    "unicode path": made(A, central(b"a", b"x", 0, extra=struct.pack("<HHBL", 0x7075, 6, 1, 0) + b"b")),
    "count too small": made(A, DIR_A, count=0),
    "count too large": made(A, DIR_A, count=2),
    "zip64 end": A + DIR_A + end(0xFFFF, len(DIR_A), len(A)),
    "offset beyond": made(A, central(b"a", b"x", 5000)),
    "two directories": made(A, DIR_A) + DIR_A + end(1, len(DIR_A), len(made(A, DIR_A))),
    "cut": made(A, DIR_A)[:-1],
    "only an end": end(0, 0, 5),
    "bad deflate": made(stored(b"a", b"\xff\xff", method=8), central(b"a", b"\xff\xff", 0, method=8)),
}


@pytest.mark.parametrize("name", ZIPS)
def test_zips_that_can_be_read_in_two_ways(place: Path, name: str) -> None:
    refused(place, ZIPS[name], "zip")


def contained(root: Path) -> None:
    """Nothing but files, folders and inner links below a folder."""
    for path in root.rglob("*"):
        mode = path.lstat().st_mode
        if path.is_symlink():
            assert not os.readlink(path).startswith("/")
            assert path.resolve(strict=False).is_relative_to(root.resolve())
        else:
            assert mode & 0o7777 in (0o644, 0o755)
            assert path.is_dir() or path.is_file()


def _try(data: bytes, form: Form | None) -> None:
    top = Path(tempfile.mkdtemp())
    try:
        dest = top / "in" / "dest"
        dest.mkdir(parents=True)
        (top / "packed").write_bytes(data)
        before = {path for path in top.rglob("*") if dest not in path.parents}
        try:
            if form is None:
                unpack_stream(io.BytesIO(data).read, dest, SMALL)
            else:
                unpack_upload(top / "packed", form, dest, SMALL)
        except HearthError:
            assert list(dest.iterdir()) == []
        contained(dest)
        assert before == {path for path in top.rglob("*") if dest not in path.parents}
    finally:
        shutil.rmtree(top)


SEEDS: list[tuple[bytes, Form | None]] = [
    (zip_of(("d/up", 0o120777, b".."), ("a/b", 0o755, b"hello" * 50), ("e/", 0o755, b"")), "zip"),
    (tar_of(("d/up", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("a" * 120, {"data": b"x" * 700})), None),
]


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=6)), max_size=6))
def test_damaged_archives_never_escape(
    seed: tuple[bytes, Form | None], changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(seed[0])
    for at, new in changes:
        at %= len(data)
        data[at : at + len(new)] = new
    _try(bytes(data), seed[1])
    if seed[1] is None:
        _try(gzip.compress(bytes(data), 0), "tar.gz")


PARTS = st.sampled_from(["a", "b", "..", ".", "", "l", "/", "é", "x" * 20])
PATHS = st.lists(PARTS, min_size=1, max_size=5).map("/".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(PATHS, st.sampled_from(["file", "dir", "link"]), PATHS), max_size=8))
def test_any_tree_is_refused_or_contained(entries: list[tuple[str, str, str]]) -> None:
    kinds: dict[str, Callable[[str], dict[str, object]]] = {
        "file": lambda _: {"data": b"x"},
        "dir": lambda _: {"type": tarfile.DIRTYPE},
        "link": lambda target: {"type": tarfile.SYMTYPE, "linkname": target},
    }
    _try(tar_of(*((name or "x", kinds[kind](target)) for name, kind, target in entries)), None)


@given(st.text(max_size=40))
def test_any_name_is_refused_or_plainly_inside(name: str) -> None:
    try:
        path = check_name(name)
    except InvalidSource as error:
        assert error.message.isprintable()
        return
    assert path == "" or (
        not path.startswith("/") and os.path.normpath(path) == path and ".." not in path.split("/")
    )


def test_links_are_judged_as_the_kernel_follows_them(tmp_path: Path) -> None:
    """The model against the machine: what `check_links` lets through resolves inside."""
    tree = Tree(SMALL)
    root = tmp_path / "r"
    for path, target in {"a/b/c": "../../d", "d": "e/f", "e/f": "..", "g": "a/b/c/e/../a"}.items():
        tree.link(path, tree.add(path, "link"), target)
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(target)
    tree.check_links()
    contained(root)
