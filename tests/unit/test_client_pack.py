"""Packing a project: what is left out, what is refused, and that the same files give the same bytes."""

from __future__ import annotations

import os
import socket
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.client import pack
from hearth.core.errors import InvalidSource, TooLarge


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "hello"
    root.mkdir()
    (root / "function.yaml").write_text("name: hello\nruntime: python\n")
    (root / "handler.py").write_text("def handler(event, context): return 1\n")
    return root


def names(root: Path) -> list[str]:
    return [entry.name for entry in pack.scan(root)]


def test_the_same_files_give_the_same_bytes(project: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    pack.pack_folder(project, first)
    os.utime(project / "handler.py", (1, 1))
    (project / "handler.py").chmod(0o640)
    pack.pack_folder(project, second)
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert tar.getnames() == ["function.yaml", "handler.py"]
        assert {(m.uid, m.gid, m.mtime, m.uname) for m in tar.getmembers()} == {(0, 0, 0, "")}


def test_the_exec_bit_is_kept(project: Path, tmp_path: Path) -> None:
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o700)
    pack.pack_folder(project, tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert tar.getmember("run.sh").mode == 0o755
        assert tar.getmember("handler.py").mode == 0o644


def test_what_no_function_needs_is_left_out(project: Path) -> None:
    for folder in (".git", "node_modules/x", "__pycache__", ".venv/bin", "lib/__pycache__"):
        (project / folder).mkdir(parents=True)
        (project / folder / "file.pyc").write_text("")
    assert names(project) == ["function.yaml", "handler.py", "lib"]


def test_ignore_files_the_inner_and_the_later_have_the_last_word(project: Path) -> None:
    (project / ".gitignore").write_text("*.log\n/build\n# comment\n")
    (project / ".hearthignore").write_text("!build\n!node_modules/\nfunction.yaml\n")
    for file in ("a.log", "build/out", "sub/build/x", "sub/b.log", "sub/keep.log", "node_modules/m.js"):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text("")
    (project / "sub" / ".gitignore").write_text("!keep.log\n")
    assert names(project) == [
        ".gitignore", ".hearthignore", "build", "build/out", "function.yaml", "handler.py",
        "node_modules", "node_modules/m.js", "sub", "sub/.gitignore", "sub/build", "sub/build/x", "sub/keep.log",
    ]  # fmt: skip


def test_an_ignore_file_that_is_no_text_is_named(project: Path) -> None:
    (project / ".gitignore").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSource, match=r"\.gitignore"):
        pack.scan(project)


@pytest.mark.parametrize("target", ["handler.py", "./sub/../handler.py", "nowhere"])
def test_a_link_inside_is_kept(project: Path, tmp_path: Path, target: str) -> None:
    (project / "sub").mkdir()
    (project / "link").symlink_to(target)
    pack.pack_folder(project, tmp_path / "a.tar.gz")
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        assert tar.getmember("link").linkname == target


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../secret", "sub/../../hello/handler.py", "out/handler.py"]
)
def test_a_link_that_leaves_is_refused(project: Path, target: str) -> None:
    (project / "sub").mkdir()
    if target.startswith("out/"):  # inside as it is written, outside as it resolves
        (project.parent / "elsewhere").mkdir()
        (project / ".hearthignore").write_text("/out\n")
        (project / "out").symlink_to("../elsewhere")
    (project / "link").symlink_to(target)
    with pytest.raises(InvalidSource, match="link"):
        pack.scan(project)


def test_a_circle_of_links_is_kept_or_refused_but_never_followed(project: Path) -> None:
    (project / "a").symlink_to("b")
    (project / "b").symlink_to("a")
    (project / "up").symlink_to(".")
    assert names(project) == ["a", "b", "function.yaml", "handler.py", "up"]


def test_a_socket_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("s.sock")
        with pytest.raises(InvalidSource, match=r"s\.sock"):
            pack.scan(project)


def test_a_name_that_is_not_utf8_is_refused(project: Path) -> None:
    with open(os.path.join(os.fsencode(project), b"a\xff.py"), "wb"):
        pass
    with pytest.raises(InvalidSource, match="UTF-8"):
        pack.scan(project)


def test_no_function_yaml(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"function\.yaml"):
        pack.scan(tmp_path)


def test_too_many_files(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "SOURCE_FILES_MAX", 2)
    assert len(names(project)) == 2
    (project / "third").write_text("")
    with pytest.raises(TooLarge, match="more than 2 files"):
        pack.scan(project)


def test_too_large_unpacked_names_the_largest(project: Path) -> None:
    with (project / "model.bin").open("wb") as file:
        file.truncate(pack.SOURCE_UNPACKED_MAX)
    with pytest.raises(TooLarge) as caught:
        pack.scan(project)
    assert "model.bin" in (caught.value.hint or "")


def test_too_large_packed(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "SOURCE_PACKED_MAX", 1000)
    (project / "noise").write_bytes(os.urandom(2000))
    with pytest.raises(TooLarge, match="packed"):
        pack.pack_folder(project, tmp_path / "a.tar.gz")


def test_a_file_that_changed_meanwhile(project: Path, tmp_path: Path) -> None:
    entries = pack.scan(project)
    (project / "handler.py").write_text("longer than before, by a good deal of text\n")
    with (tmp_path / "a").open("wb") as out, pytest.raises(InvalidSource, match=r"handler\.py changed"):
        pack.write(entries, out)


@given(st.lists(st.sampled_from(["a", "..", ".", ""]), min_size=1, max_size=8))
def test_staying_inside_agrees_with_walking(parts: list[str]) -> None:
    here, inside = 2, True  # a link in x/y
    for part in parts:
        here += {"a": 1, "..": -1}.get(part, 0)
        inside = inside and here >= 0
    target = "/".join(parts)
    assert pack._stays_inside(pack.PurePosixPath("x/y"), target) == inside
