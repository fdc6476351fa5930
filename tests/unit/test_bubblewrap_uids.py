"""Blocks of host uids."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hearth.core.errors import NoCapacity, StartupFailed
from hearth.drivers.common import uids


@pytest.fixture
def locks(tmp_path: Path) -> Path:
    return tmp_path / "uids"


def test_tables_and_maps_are_parsed() -> None:
    assert uids.parse_ranges("ann:100000:65536\nbroken\nx:y:z\n", "bob:5:1") == [
        range(100000, 165536),
        range(5, 6),
    ]
    assert uids.parse_map("         0          0 4294967295\n") == [range(4294967295)]


def test_every_instance_tries_all_blocks_its_own_favourite_first() -> None:
    one, two = uids.order("aaaa"), uids.order("bbbb")
    assert one[0] != two[0]
    assert one == uids.order("aaaa")
    assert {block.start for block in one} == {block.start for block in two}
    assert len(one) == uids.BLOCKS
    everything = range(uids.FIRST, uids.FIRST + uids.BLOCKS * uids.BLOCK)
    assert {number for block in one for number in (block[0], block[-1])} <= set(everything)
    assert everything.start > 1879048192  # systemd's containers end there
    assert everything.stop < 2147352576  # systemd's foreign images begin there


def test_overlaps() -> None:
    assert uids.overlaps(range(10, 20), [range(11)])
    assert uids.overlaps(range(10, 20), [range(12, 13)])
    assert not uids.overlaps(range(10, 20), [range(10), range(20, 30)])


def test_two_holders_have_two_blocks_and_a_lock_ends_with_its_holder(locks: Path) -> None:
    first = uids.take_block("same", locks)
    second = uids.take_block("same", locks)
    assert not set(first.range) & set(second.range)
    again = first.range
    first.close()
    third = uids.take_block("same", locks)
    assert third.range == again
    second.close()
    third.close()


def test_blocks_in_use_in_subuid_or_unmapped_are_left_out(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    favourites = uids.order("x")
    monkeypatch.setattr(uids, "used_uids", lambda: {favourites[0][7]})
    texts = {"/etc/subuid": f"ann:{favourites[1][0]}:10\n"}
    original = uids._read
    monkeypatch.setattr(uids, "_read", lambda path: texts.get(str(path), original(path)))
    block = uids.take_block("x", locks)
    assert block.range == favourites[2]
    block.close()
    texts["/proc/self/uid_map"] = "0 0 65536\n"
    with pytest.raises(StartupFailed):
        uids.take_block("x", locks)


def test_own_uid_is_among_the_used() -> None:
    assert os.getuid() in uids.used_uids()


def test_a_uid_is_given_to_one_at_a_time_and_the_freed_one_last(locks: Path) -> None:
    block = uids.take_block("x", locks)
    first = block.take()
    second = block.take()
    assert first != second
    block.give_back(first)
    taken = [block.take() for _ in range(uids.DISKS - 1)]
    assert taken[-1] == first
    assert len({*taken, second}) == uids.DISKS
    with pytest.raises(NoCapacity):
        block.take()
    block.close()


def test_disks_have_uids_apart(locks: Path) -> None:
    block = uids.take_block("x", locks)
    kept = block.take_disk()
    assert kept - block.range.start >= uids.DISKS
    assert block.take_disk(kept) != kept
    block.free_disk(kept)
    assert block.take_disk(kept) == kept
    assert block.take_disk(5) in block.range
    block.give_back(kept)  # not a sandbox's: never among those
    assert kept not in {block.take() for _ in range(uids.DISKS)}
    block.close()


def test_a_lock_that_was_taken_away_meanwhile_is_not_held(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removes its file, and lets go, between our open(2) and our flock(2): the next to come would not see us."""
    first = uids.take_block("same", locks)
    original = uids.fcntl.flock

    def late(fd: int, how: int) -> None:
        monkeypatch.setattr(uids.fcntl, "flock", original)
        first.close()
        original(fd, how)

    monkeypatch.setattr(uids.fcntl, "flock", late)
    second = uids.take_block("same", locks)
    third = uids.take_block("same", locks)
    assert second.range == first.range
    assert not set(second.range) & set(third.range)
    second.close()
    third.close()
    assert not locks.exists()


@pytest.mark.root
def test_a_process_that_has_ended_and_waits_for_its_parent_uses_no_uid() -> None:
    uid = uids.FIRST - 1
    process = subprocess.Popen(["sleep", "100"], user=uid)
    assert uid in uids.used_uids()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still there
    assert uid not in uids.used_uids()
    process.wait()
