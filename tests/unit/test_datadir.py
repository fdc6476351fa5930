"""The data directory, which its unprivileged owner may have prepared for the next start as root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearth.core.errors import StartupFailed
from hearth.supervisor.datadir import FOLDERS, DataDir

UID = 1_946_091_521


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (tmp_path / "outside").mkdir()
    (tmp_path / "file").write_text("kept")
    yield folder
    assert (tmp_path / "outside").stat().st_uid == os.getuid()
    assert (tmp_path / "file").read_text() == "kept"


def opened(place: Path) -> DataDir:
    data = DataDir(place)
    data.close()
    return data


def test_the_instance_id_stays(place: Path) -> None:
    assert opened(place).instance == opened(place).instance


@pytest.mark.parametrize(
    "text", ["", "../../..", "x/../../etc", "1234567", "123456789", "1234567G", "12345678\n../x"]
)
def test_an_instance_id_that_is_none_is_refused(place: Path, text: str) -> None:
    (place / "instance").write_text(text)
    with pytest.raises(StartupFailed, match="instance id"):
        DataDir(place)


def test_a_binary_instance_id_is_refused(place: Path) -> None:
    (place / "instance").write_bytes(b"\xff\xfe")
    with pytest.raises(StartupFailed, match="instance id"):
        DataDir(place)


def test_nothing_is_written_through_a_link(place: Path, tmp_path: Path) -> None:
    (place / "instance.new").symlink_to(tmp_path / "file")
    assert opened(place).instance == (place / "instance").read_text().strip()
    (place / "lock").unlink()
    (place / "lock").symlink_to(tmp_path / "made")
    with pytest.raises(StartupFailed, match="can't be used"):
        DataDir(place)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "disks"])
def test_a_folder_that_became_a_link_is_refused(place: Path, tmp_path: Path, name: str) -> None:
    (place / name).symlink_to(tmp_path / "outside")
    with pytest.raises(StartupFailed, match="not a folder"):
        opened(place).give_to(os.getuid(), os.getgid())


@pytest.mark.root
def test_who_owns_what(place: Path) -> None:
    (place / "key").write_bytes(b"k")
    (place / "hearth.db").write_text("")
    opened(place).give_to(UID, UID)
    owners = {path.name: path.stat().st_uid for path in place.iterdir()}
    assert {name for name, uid in owners.items() if uid == 0} == {"disks", "instance", "key", "lock"}
    assert set(owners.values()) == {0, UID}
    assert place.stat().st_uid == UID
    assert all((place / name).stat().st_mode & 0o777 == 0o700 for name in FOLDERS)


@pytest.mark.root
@pytest.mark.parametrize("how", ["owned", "link", "open"])
def test_disks_that_another_could_write_are_thrown_away(place: Path, tmp_path: Path, how: str) -> None:
    disks = place / "disks"
    (tmp_path / "outside" / "a.img").write_text("hostile")
    if how == "link":
        disks.symlink_to(tmp_path / "outside")
    else:
        disks.mkdir()
        (disks / "a.img").write_text("hostile")
        os.chown(disks, *((UID, UID) if how == "owned" else (0, 0)))
        disks.chmod(0o777 if how == "open" else 0o700)
    opened(place).give_to(UID, UID)
    assert list(disks.iterdir()) == []
    assert (disks.stat().st_uid, disks.is_symlink()) == (0, False)
    assert (tmp_path / "outside" / "a.img").exists()


@pytest.mark.root
def test_disks_that_are_roots_alone_stay(place: Path) -> None:
    (place / "disks").mkdir(mode=0o700)
    (place / "disks" / "a.img").write_text("cache")
    opened(place).give_to(UID, UID)
    assert (place / "disks" / "a.img").exists()
