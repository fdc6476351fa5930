"""Archives that people really send: what comes out, byte for byte and mode for mode."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from hearth.build.archive import Form, Unpacked, unpack_stream, unpack_upload
from hearth.build.tree import Caps
from hearth.core.errors import InvalidSource, PlatformError, TooLarge


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    folder = tmp_path / "dest"
    folder.mkdir()
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "pkg" / "data").mkdir(parents=True)
    (root / "function.yaml").write_text("name: x\n")
    (root / "pkg" / "größe.py").write_text("print()\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o750)
    (root / "pkg" / "big").write_bytes(os.urandom(700_000))
    (root / "pkg" / "link").symlink_to("../run.sh")
    (root / "empty").mkdir()
    return root


def listing(root: Path) -> dict[str, tuple[str, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        kind = "link" if path.is_symlink() else "dir" if path.is_dir() else "file"
        mode = "" if kind == "link" else oct(path.lstat().st_mode & 0o7777)
        content = os.readlink(path) if kind == "link" else path.read_bytes().hex() if kind == "file" else ""
        found[str(path.relative_to(root))] = (kind + mode, content)
    return found


def expected(project: Path) -> dict[str, tuple[str, str]]:
    modes = {"file0o640": "file0o644", "file0o600": "file0o644", "file0o750": "file0o755"}
    found = {name: (modes.get(kind, kind), content) for name, (kind, content) in listing(project).items()}
    return {
        name: ("dir0o755" if kind.startswith("dir") else kind, content)
        for name, (kind, content) in found.items()
    }


def upload(tmp_path: Path, data: bytes, form: Form, dest: Path, caps: Caps | None = None) -> Unpacked:
    packed = tmp_path / "packed"
    packed.write_bytes(data)
    return unpack_upload(packed, form, dest, caps) if caps else unpack_upload(packed, form, dest)


@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_what_gnu_tar_packs(project: Path, tmp_path: Path, dest: Path, form: str) -> None:
    os.umask(0o077)
    try:
        data = subprocess.check_output(["tar", f"--format={form}", "-C", project, "-czf", "-", "."])
        unpacked = upload(tmp_path, data, "tar.gz", dest)
    finally:
        os.umask(0o022)
    assert listing(dest) == expected(project)
    assert (unpacked.files, unpacked.size) == (5, 700_000 + 8 + 8 + 10)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_packs(project: Path, tmp_path: Path, dest: Path, form: int) -> None:
    deep = project / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    (deep / ("ü" * 60)).write_text("long")
    (project / "l").symlink_to("./" + "d" * 100 + "/" + "e" * 100)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", format=form) as tar:
        tar.add(project, arcname=".")
    upload(tmp_path, packed.getvalue(), "tar.gz", dest)
    assert listing(dest) == expected(project)


def test_several_gzip_members(project: Path, tmp_path: Path, dest: Path) -> None:
    import gzip

    plain = subprocess.check_output(["tar", "-C", project, "-cf", "-", "."])
    data = b"".join(gzip.compress(plain[at : at + 100_000]) for at in range(0, len(plain), 100_000))
    upload(tmp_path, data, "tar.gz", dest)
    assert listing(dest) == expected(project)


def zip_of(project: Path, streamed: bool = False) -> bytes:
    out = io.BytesIO()
    stream = out
    if streamed:

        class Unseekable(io.RawIOBase):
            def writable(self) -> bool:
                return True

            def write(self, data: bytes) -> int:  # type: ignore[override]
                return out.write(data)

        stream = Unseekable()  # type: ignore[assignment]
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.comment = b"0123456789abcdef"
        for path in sorted(project.rglob("*")):
            name = str(path.relative_to(project))
            if path.is_symlink():
                info = zipfile.ZipInfo(name)
                info.create_system = 3
                info.external_attr = 0o120777 << 16
                packed.writestr(info, os.readlink(path))
            else:
                packed.write(path, name)
    return out.getvalue()


@pytest.mark.parametrize("streamed", [False, True])
def test_what_zipfile_packs(project: Path, tmp_path: Path, dest: Path, streamed: bool) -> None:
    upload(tmp_path, zip_of(project, streamed), "zip", dest)
    assert listing(dest) == expected(project)


def test_zip_without_unix_modes(tmp_path: Path, dest: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        info = zipfile.ZipInfo("a/b.py")
        info.create_system = 0
        packed.writestr(info, "x = 1\n")
        packed.writestr("empty", b"", zipfile.ZIP_DEFLATED)
    upload(tmp_path, out.getvalue(), "zip", dest)
    assert sorted(listing(dest)) == ["a", "a/b.py", "empty"]
    assert (dest / "a/b.py").stat().st_mode & 0o777 == 0o644


def test_one_top_folder_stays(project: Path, tmp_path: Path, dest: Path) -> None:
    data = subprocess.check_output(["tar", "-C", project.parent, "-czf", "-", "project"])
    upload(tmp_path, data, "tar.gz", dest)
    assert [path.name for path in dest.iterdir()] == ["project"]


def test_a_build_stream(project: Path, dest: Path) -> None:
    data = subprocess.check_output(["tar", "-C", project, "-cf", "-", "."])
    stream = io.BytesIO(data)
    assert unpack_stream(lambda count: stream.read(min(count, 1000)), dest).files == 5
    assert listing(dest) == expected(project)


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 1024, 40_000])
def test_a_build_stream_that_is_cut_off(project: Path, dest: Path, cut: int) -> None:
    data = subprocess.check_output(["tar", "-C", project, "-cf", "-", "."])
    stream = io.BytesIO(data[:cut])
    with pytest.raises(InvalidSource, match="cut off"):
        unpack_stream(stream.read, dest)
    assert list(dest.iterdir()) == []


def test_form_and_content_must_agree(project: Path, tmp_path: Path, dest: Path) -> None:
    with pytest.raises(InvalidSource, match=r"no tar\.gz archive"):
        upload(tmp_path, zip_of(project), "tar.gz", dest)
    with pytest.raises(InvalidSource, match="no zip archive"):
        upload(tmp_path, b"", "zip", dest)


def test_limits_say_which_entry(project: Path, tmp_path: Path, dest: Path) -> None:
    data = zip_of(project)
    for caps in (Caps(total=1000, files=100), Caps(total=1 << 30, files=4)):
        with pytest.raises(TooLarge) as caught:
            upload(tmp_path, data, "zip", dest, caps)
        assert caught.value.details["entry"]
        assert list(dest.iterdir()) == []


def test_what_this_machine_refuses_is_ours(project: Path, tmp_path: Path, dest: Path) -> None:
    """A file that is there already stands for any failure to write; it isn't the uploader's fault."""
    (dest / "run.sh").write_text("")
    with pytest.raises(PlatformError, match="could not be written"):
        upload(tmp_path, zip_of(project), "zip", dest)
    assert list(dest.iterdir()) == []
