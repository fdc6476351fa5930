"""An ordinary user's limits: what of the cgroup v2 tree is his, and what stands in where nothing is."""

from __future__ import annotations

import os
import resource
import select
import subprocess
import sys
from pathlib import Path

import pytest

from hearth.core.launch import Limits
from hearth.drivers.bubblewrap import cgroup_v2, delegation, own_limits
from hearth.drivers.bubblewrap.cgroup_v2 import LEAF, GroupsV2, delegated_base
from hearth.drivers.bubblewrap.kin import Kin, below, children
from hearth.drivers.bubblewrap.own_limits import OwnGroup, OwnGroups

OWN = "0::/user.slice/hearth.service\n"


def group(path: Path, pids: str = "", controllers: str = "cpu memory pids") -> Path:
    """A directory with the files that the kernel gives a control group."""
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text(pids)
    (path / "cgroup.subtree_control").write_text("")
    (path / "cgroup.controllers").write_text(controllers)
    return path


def test_a_group_with_nobody_else_in_it_is_taken_for_delegated(tmp_path: Path) -> None:
    own = group(tmp_path / "user.slice/hearth.service", f"{os.getpid()}\n{os.getppid()}\n")
    base = delegated_base(tmp_path, OWN)
    assert base is not None and base.path == own and base.leaf


def test_a_group_with_somebody_else_in_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = group(tmp_path / "user.slice/hearth.service", f"{os.getpid()}\n4000000\n")
    assert delegated_base(tmp_path, OWN) is None
    monkeypatch.setattr(cgroup_v2, "_delegated", lambda path: path == own)
    assert delegated_base(tmp_path, OWN) is not None  # but for systemd's own word


def test_a_keeper_in_its_supervisors_leaf_uses_the_group_above(tmp_path: Path) -> None:
    own = group(tmp_path / "user.slice/hearth.service", "0\n4000000\n")
    group(own / f"{LEAF}-0a1b2c3d", "1\n")
    base = delegated_base(tmp_path, f"0::/user.slice/hearth.service/{LEAF}-0a1b2c3d\n")
    assert base is not None and base.path == own


# Whether a group is taken for delegated whose whole, or one part of it, is not its user's to write. Everything is made and asked
# by that user; root, who may write everything, becomes one first, when all is imported (this tree may be closed to him).
AS_A_USER = """
import os, sys, tempfile
from pathlib import Path
from hearth.drivers.bubblewrap.cgroup_v2 import delegated_base
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
with tempfile.TemporaryDirectory(dir="/tmp") as root:
    own = Path(root, "unit")
    own.mkdir()
    for name in ("cgroup.procs", "cgroup.subtree_control"):
        (own / name).write_text("")
    place = own / sys.argv[1]
    if sys.argv[2] == "closed":
        place.chmod(place.stat().st_mode & ~0o222)
    print(delegated_base(Path(root), "0::/unit") is not None)
    own.chmod(0o755)
"""


@pytest.mark.parametrize("part", [".", "cgroup.procs", "cgroup.subtree_control"])
def test_a_group_that_is_not_his_to_write_is_not(part: str) -> None:
    def taken(state: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", AS_A_USER, part, state], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert (taken("open"), taken("closed")) == ("True", "False")


def test_the_root_of_the_tree_is_nobodys(tmp_path: Path) -> None:
    group(tmp_path / "root")
    assert delegated_base(tmp_path / "root", "0::/\n") is None


def test_without_a_group_memory_and_cpu_are_not_held_and_pids_are() -> None:
    groups = OwnGroups(None, delegation.nothing_own(old=False))
    groups.open()
    assert set(groups.missing) == {"memory", "cpu"}
    assert groups.version == "none"
    assert groups.offered() == {"pids"}


def test_a_controller_that_was_not_delegated_is_missing_but_pids(tmp_path: Path) -> None:
    own = group(tmp_path / "unit", "", "memory")
    inner = GroupsV2("i", cgroup_v2.Base(own, leaf=False))
    assert inner.offered() == {"memory"}
    groups = OwnGroups(inner, {})
    lacking = delegation.not_given(("cpu", "pids"), unit=True)
    inner.open = lambda: inner.missing.update(lacking)  # type: ignore[method-assign]
    groups.open()
    assert set(groups.missing) == {"cpu"}


def waiting(command: str = "read line") -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.PIPE)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_limits_are_set_on_the_first_process_and_changed_on_all() -> None:
    process = waiting()
    one = OwnGroup(None, heap=True)
    one.follow(process.pid)
    try:
        one.hold(process.pid, Limits(pids=50), final=False)
        assert resource.prlimit(process.pid, resource.RLIMIT_NPROC) == (53, 53)
        assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[1] == resource.RLIM_INFINITY
        one.set_limits(Limits(pids=40, memory=64 << 20))
        assert resource.prlimit(process.pid, resource.RLIMIT_NPROC) == (43, 43)
        assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[0] == (64 << 20) + own_limits.DATA_SLACK
        assert one.usage().pids == 1 and one.usage().memory > 0
    finally:
        end(process)
        one.close()


def test_where_memory_is_held_by_a_group_the_heap_is_left_alone() -> None:
    process = waiting()
    one = OwnGroup(None, heap=False)
    one.follow(process.pid)
    try:
        one.hold(process.pid, Limits(memory=1 << 24), final=True)
        assert resource.prlimit(process.pid, resource.RLIMIT_DATA)[1] == resource.RLIM_INFINITY
    finally:
        end(process)
        one.close()


def test_kin_are_found_and_killed_whole() -> None:
    process = waiting("sleep 100 & read line; wait")
    kin = Kin(process.pid)
    while not children(process.pid):
        pass
    assert kin.pids() == {process.pid, *below(process.pid)}
    assert len(kin.pids()) == 2
    (sleeper,) = children(process.pid)
    pidfd = os.pidfd_open(sleeper)
    kin.kill()
    assert select.select([pidfd], [], [], 20)[0], "its child lives"
    os.close(pidfd)
    end(process)
    assert process.pid not in kin.pids()
    kin.close()
    kin.close()
