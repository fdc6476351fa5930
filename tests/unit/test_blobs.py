"""Folders by digest: whole or not at all, and never collected while somebody needs them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hearth.blobs.digest import tree_digest
from hearth.blobs.local import LocalBlobs
from hearth.core.errors import InvalidSource, NoCapacity
from hearth.ports.blobs import Blobs


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


def fill(folder: Path, text: str = "x") -> Path:
    (folder / "a").mkdir()
    (folder / "a" / "f").write_text(text)
    (folder / "l").symlink_to("a/f")
    return folder


async def test_adopt(blobs: LocalBlobs) -> None:
    port: Blobs = blobs
    staged = fill(port.staging())
    assert staged.stat().st_mode & 0o777 == 0o700
    digest = await port.adopt("source", staged)
    place = port.path("source", digest)
    assert (place / "l").read_text() == "x"
    assert place.stat().st_mode & 0o777 == 0o755
    assert not staged.exists()
    assert port.exists("source", digest)
    assert not port.exists("artifact", digest)
    assert port.free() > 0


async def test_the_same_again(blobs: LocalBlobs) -> None:
    first = await blobs.adopt("source", fill(blobs.staging()))
    os.utime(blobs.path("source", first), (1, 1))
    staged = fill(blobs.staging())
    assert await blobs.adopt("source", staged) == first
    assert not staged.exists()
    assert await blobs.collect("source", set(), 60) == set()  # it is young again
    assert blobs.exists("source", first)


def test_digest_sees_all_that_matters_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "t"
    root.mkdir()
    fill(root)
    seen = {tree_digest(root)}
    os.utime(root / "a" / "f", (1, 1))
    assert tree_digest(root) in seen

    def changed() -> None:
        digest = tree_digest(root)
        assert digest not in seen
        seen.add(digest)

    (root / "a" / "f").chmod(0o755)
    changed()
    (root / "a" / "f").write_text("y")
    changed()
    (root / "a" / "f").rename(root / "a" / "g")
    changed()
    (root / "l").unlink()
    (root / "l").symlink_to("a/g")
    changed()
    (root / "l").unlink()
    (root / "l").write_text("a/g")
    changed()
    (root / "e").mkdir()
    changed()


def test_digest_is_stable(tmp_path: Path) -> None:
    """It is in the database: another value would orphan everybody's sources."""
    (tmp_path / "a").write_text("x")
    assert tree_digest(tmp_path) == ("d29e78761c62e90019320723d8ec97a80fa050231aa8aba36f34f7a4ee49c1dd")


async def test_odd_things_are_refused(blobs: LocalBlobs) -> None:
    staged = blobs.staging()
    os.mkfifo(staged / "pipe")
    with pytest.raises(InvalidSource):
        await blobs.adopt("source", staged)


def test_a_digest_never_walks(blobs: LocalBlobs) -> None:
    for name in ("..", "../../etc", "A" * 64, "a" * 63, "a" * 64 + "\n"):
        with pytest.raises(ValueError, match="digest"):
            blobs.path("source", name)


async def test_collect(blobs: LocalBlobs) -> None:
    kept = await blobs.adopt("artifact", fill(blobs.staging(), "kept"))
    old = await blobs.adopt("artifact", fill(blobs.staging(), "old"))
    young = await blobs.adopt("artifact", fill(blobs.staging(), "young"))
    for digest in (kept, old):
        os.utime(blobs.path("artifact", digest), (1, 1))
    assert await blobs.collect("artifact", {kept}, 60) == {old}
    assert [blobs.exists("artifact", digest) for digest in (kept, old, young)] == [True, False, True]


async def test_collect_unfinished(blobs: LocalBlobs, tmp_path: Path) -> None:
    old, young = fill(blobs.staging()), fill(blobs.staging())
    (tmp_path / "tmp" / "loose").write_text("x")
    os.utime(tmp_path / "tmp" / "loose", (1, 1))
    os.utime(old, (1, 1))
    assert await blobs.collect("tmp", set(), 60) == {"loose", old.name}
    assert not old.exists()
    assert young.exists()


async def test_what_a_process_that_has_died_left_goes_at_any_age(tmp_path: Path) -> None:
    script = """
import os, sys
from pathlib import Path
from hearth.blobs.local import LocalBlobs
print(LocalBlobs(Path(sys.argv[1])).staging(), flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdin is not None
    blobs = LocalBlobs(tmp_path)
    try:
        theirs, mine = Path(child.stdout.readline().strip()), blobs.staging()
        (tmp_path / "tmp" / "gone-half").mkdir()  # a removal that was cut short
        assert await blobs.collect("tmp", set(), 60) == {"gone-half"}
        assert theirs.is_dir()
        child.kill()
        child.wait()
        assert await blobs.collect("tmp", set(), 60) == {theirs.name}
        assert mine.is_dir()
        blobs.close()
        assert await LocalBlobs(tmp_path).collect("tmp", set(), 60) == {mine.name}
        assert list((tmp_path / "tmp").iterdir()) == []
    finally:
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stdin):
            pipe.close()


async def test_what_is_touched_while_the_collector_works_is_never_gone(blobs: LocalBlobs) -> None:
    """Whoever was told that a blob is there finds it whole; who was told that it isn't makes it anew."""
    digest = await blobs.adopt("artifact", fill(blobs.staging()))
    collecting = True

    async def collect() -> int:
        count = 0
        while collecting:
            count += len(await blobs.collect("artifact", set(), 60))
        return count

    def use() -> int:
        missing = 0
        while missing < 20:
            with contextlib.suppress(FileNotFoundError):
                os.utime(blobs.path("artifact", digest), (1, 1))
            if blobs.touch("artifact", digest):
                assert (blobs.path("artifact", digest) / "a" / "f").read_text() == "x"
            else:
                missing += 1
                staged = fill(blobs.staging())
                assert asyncio.run(blobs.adopt("artifact", staged)) == digest
                assert (blobs.path("artifact", digest) / "a" / "f").read_text() == "x"
        return missing

    collector = asyncio.create_task(collect())
    missing = await asyncio.to_thread(use)
    collecting = False
    assert await collector == missing


async def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = LocalBlobs(tmp_path)
    staged = fill(blobs.staging())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(NoCapacity, match="the server's disk is full"):
        await blobs.adopt("source", staged)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(NoCapacity):
        blobs.staging()


async def test_size(blobs: LocalBlobs) -> None:
    digest = await blobs.adopt("artifact", fill(blobs.staging(), "12345"))
    assert await blobs.size("artifact", digest) == 5 + len("a/f")  # a link counts with its target
    assert await blobs.size("artifact", "0" * 64) == 0
