"""Control groups of both versions, on trees in a temporary folder; the real ones are in tests/security."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from hearth.core.launch import Limits, Usage
from hearth.drivers.bubblewrap import cgroup_v2, cgroups, files
from hearth.drivers.bubblewrap.cgroup_v1 import GroupsV1
from hearth.drivers.bubblewrap.cgroup_v2 import Base, GroupsV2, GroupV2, choose_base

MIB = 1 << 20
HYBRID = """
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""


def test_mounts_are_parsed() -> None:
    found = {str(mount.point): mount for mount in cgroups.parse_mounts(HYBRID.strip())}
    assert found["/sys/fs/cgroup/cpu,cpuacct"].controllers == {"cpu", "cpuacct"}
    assert found["/sys/fs/cgroup/memory"].version == 1
    assert found["/sys/fs/cgroup/unified"].version == 2
    assert "/sys/fs/cgroup" not in found


def test_quota() -> None:
    assert [cgroups.quota(cpu) for cpu in (0.5, 2.0, 0.001)] == [50_000, 200_000, 1000]


def fill(directory: Path, **content: str) -> None:
    for name, text in content.items():
        (directory / name.replace("__", ".")).write_text(text)


def write_whole(path: Path, value: str) -> None:
    """As the kernel takes a control file: what was there before is gone, and no file is made."""
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file", str(path))
    path.write_text(value)


@pytest.fixture
def v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GroupsV1:
    """Directories get their control files when they are made, as in the kernel."""
    points = {name: tmp_path / name for name in ("memory", "cpu", "pids", "cpuacct", "freezer")}
    control = {
        "memory": {
            "memory.limit_in_bytes": "9223372036854771712",
            "memory.memsw.limit_in_bytes": "9223372036854771712",
        },
        "cpu": {"cpu.cfs_period_us": "", "cpu.cfs_quota_us": ""},
        "pids": {"pids.max": "max"},
        "freezer": {"freezer.state": "THAWED"},
    }
    for point in points.values():
        point.mkdir()
    original = Path.mkdir

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        (self / "cgroup.procs").write_text("")
        for name, text in control.get(self.relative_to(tmp_path).parts[0], {}).items():
            (self / name).write_text(text)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(files, "write", write_whole)
    groups = GroupsV1("inst", points, None)
    groups.open()
    return groups


def test_v1_has_one_directory_per_controller(v1: GroupsV1, tmp_path: Path) -> None:
    group = v1.create("sb_1", Limits(memory=64 * MIB, cpu=0.5, pids=10))
    assert {str(path.relative_to(tmp_path)) for path in group.directories} == {
        f"{name}/hearth-inst/sb_1" for name in ("memory", "cpu", "pids", "cpuacct", "freezer")
    }
    assert set(group.joins) == {str(path / "cgroup.procs") for path in group.directories}
    assert files.number(tmp_path / "memory/hearth-inst/sb_1/memory.limit_in_bytes") == 64 * MIB
    assert files.number(tmp_path / "memory/hearth-inst/sb_1/memory.memsw.limit_in_bytes") == 64 * MIB
    assert files.number(tmp_path / "cpu/hearth-inst/sb_1/cpu.cfs_quota_us") == 50_000
    assert files.number(tmp_path / "pids/hearth-inst/sb_1/pids.max") == 10 + cgroups.OWN_PIDS
    assert list(v1.existing()) == ["sb_1"]
    assert not v1.missing


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [(64, 32, ["limit", "both"]), (32, 64, ["both", "limit", "both"])],
    ids=["lowering", "raising"],
)
def test_v1_swap_is_never_below_memory(
    v1: GroupsV1, monkeypatch: pytest.MonkeyPatch, before: int, after: int, order: list[str]
) -> None:
    group = v1.create("sb_1", Limits(memory=before * MIB))
    written: list[str] = []
    original = files.write

    def write(path: Path, value: str) -> None:
        if path.name.startswith("memory."):
            written.append("both" if "memsw" in path.name else "limit")
        original(path, value)

    monkeypatch.setattr(files, "write", write)
    group.set_limits(Limits(memory=after * MIB))
    assert written == order


def test_v1_usage(v1: GroupsV1, tmp_path: Path) -> None:
    group = v1.create("sb_1", Limits())
    memory = tmp_path / "memory/hearth-inst/sb_1"
    (memory / "memory.usage_in_bytes").write_text("100\n")
    (memory / "memory.max_usage_in_bytes").write_text("200\n")
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "cpuacct/hearth-inst/sb_1/cpuacct.usage").write_text("2500000000\n")
    (tmp_path / "pids/hearth-inst/sb_1/pids.current").write_text("4\n")
    assert group.usage() == Usage(100, 200, 2.5, 4, 3)


def test_v1_says_what_is_missing(tmp_path: Path) -> None:
    groups = GroupsV1("inst", {"memory": tmp_path}, None)
    assert set(groups.missing) == {"cpu", "pids"}


def test_v1_a_group_that_can_not_be_made_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    groups = GroupsV1("inst", {"memory": tmp_path / "memory"}, None)
    (tmp_path / "memory" / "hearth-inst").mkdir()
    with pytest.raises(FileNotFoundError):  # a plain folder has no control files
        groups.create("sb_1", Limits())
    assert groups.existing() == {}


# v2


@pytest.mark.parametrize(
    ("own", "delegated", "real_root", "wanted"),
    [
        ("/", False, True, Base(Path(), leaf=False)),
        ("/user.slice/session-3.scope", False, True, Base(Path(), leaf=False)),
        ("/system.slice/hearth.service", True, True, Base(Path("system.slice/hearth.service"), leaf=True)),
        (
            "/system.slice/hearth.service/hearth-platform",
            True,
            True,
            Base(Path("system.slice/hearth.service"), leaf=True),
        ),
        (
            "/system.slice/hearth.service/hearth-platform-0a1b",
            True,
            True,
            Base(Path("system.slice/hearth.service"), leaf=True),
        ),
        ("/hearth-platform-0a1b", False, True, Base(Path(), leaf=False)),
        ("/", False, False, Base(Path(), leaf=True)),
    ],
    ids=["root", "session", "unit", "unit again", "in a unit", "at the root", "container"],
)
def test_v2_chooses_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, delegated: bool, real_root: bool, wanted: Base
) -> None:
    if not real_root:
        (tmp_path / "cgroup.type").write_text("domain\n")
    monkeypatch.setattr(cgroup_v2, "_delegated", lambda group: delegated)
    base = choose_base(tmp_path, f"1:name=systemd:/x\n0::{own}\n")
    assert base == Base(tmp_path / wanted.path, wanted.leaf)


@pytest.fixture
def v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GroupsV2:
    """A tree that behaves like the kernel's in what is used of it: files appear, `+x` adds to subtree_control."""
    original = Path.mkdir

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        there = self.exists()
        original(self, *args, **kwargs)  # type: ignore[arg-type]
        if there:
            return
        fill(
            self,
            cgroup__procs="", cgroup__controllers="cpu memory pids\n", cgroup__subtree_control="",
            memory__max="max\n", memory__swap__max="max\n", memory__oom__group="0\n", memory__current="0\n",
            cpu__max="max 100000\n", pids__max="max\n", cgroup__kill="",
        )  # fmt: skip

    def write(path: Path, value: str) -> None:
        if path.name == "cgroup.subtree_control":
            if value[0] == "+" and (path.parent / "cgroup.procs").read_text():
                raise OSError(errno.EBUSY, "no processes in inner groups", str(path))
            others = [name for name in path.read_text().split() if name != value[1:]]
            value = " ".join([*others, *([value[1:]] if value[0] == "+" else [])])
        elif path.name == "cgroup.procs":
            for other in tmp_path.rglob("cgroup.procs"):
                write_whole(other, "".join(f"{pid}\n" for pid in other.read_text().split() if pid != value))
            value = f"{path.read_text()}{value}\n"
        write_whole(path, value)

    remove = Path.rmdir

    def rmdir(self: Path) -> None:
        if (self / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "not empty", str(self))
        for file in self.iterdir():
            if file.is_file():
                file.unlink()
        remove(self)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    monkeypatch.setattr(files, "write", write)
    (tmp_path / "unit").mkdir()
    return GroupsV2("inst", Base(tmp_path / "unit", leaf=True))


def test_v2_moves_itself_into_a_leaf_and_hands_controllers_down(v2: GroupsV2, tmp_path: Path) -> None:
    (tmp_path / "unit/cgroup.procs").write_text("11\n12\n")
    v2.open()
    assert (tmp_path / "unit/hearth-platform/cgroup.procs").read_text().split() in (
        ["11", "12"],
        ["12", "11"],
    )
    for group in ("unit", "unit/hearth-inst"):
        assert set((tmp_path / group / "cgroup.subtree_control").read_text().split()) == {
            "cpu",
            "memory",
            "pids",
        }
    assert not v2.missing


def test_v2_gives_the_group_back_when_the_last_one_ends(v2: GroupsV2, tmp_path: Path) -> None:
    unit = tmp_path / "unit"
    (unit / "cgroup.procs").write_text("11\n")
    (unit / "hearth-platform-inst").mkdir()
    other = GroupsV2("other", Base(unit, leaf=True))
    v2.open()
    other.open()
    v2.close()
    assert (unit / "hearth-platform/cgroup.procs").read_text() == "11\n"
    assert (unit / "cgroup.subtree_control").read_text()
    other.close()
    assert (unit / "cgroup.procs").read_text() == "11\n"
    assert not (unit / "cgroup.subtree_control").read_text()
    assert sorted(entry.name for entry in unit.iterdir() if entry.is_dir()) == ["hearth-platform-inst"]


def test_v2_at_the_root_moves_nobody(v2: GroupsV2, tmp_path: Path) -> None:
    (tmp_path / "unit/cgroup.procs").write_text("11\n")
    groups = GroupsV2("inst", Base(tmp_path / "unit", leaf=False))
    groups.open()
    assert not (tmp_path / "unit/hearth-platform").exists()


def test_v2_at_the_root_takes_nothing_from_another_platform(v2: GroupsV2, tmp_path: Path) -> None:
    first, second = (GroupsV2(name, Base(tmp_path / "unit", leaf=False)) for name in ("one", "two"))
    first.open()
    second.open()
    first.close()
    assert "cpu" in (tmp_path / "unit/cgroup.subtree_control").read_text()


def test_v2_at_the_root_leaves_it_as_it_was(v2: GroupsV2, tmp_path: Path) -> None:
    (tmp_path / "unit/cgroup.subtree_control").write_text("memory\n")
    groups = GroupsV2("one", Base(tmp_path / "unit", leaf=False))
    groups.open()
    assert set((tmp_path / "unit/cgroup.subtree_control").read_text().split()) == {"memory", "cpu", "pids"}
    groups.close()
    assert (tmp_path / "unit/cgroup.subtree_control").read_text().split() == ["memory"]


def test_v2_says_what_is_not_delegated(v2: GroupsV2, tmp_path: Path) -> None:
    (tmp_path / "unit/hearth-inst").mkdir()
    (tmp_path / "unit/hearth-inst/cgroup.controllers").write_text("memory pids\n")
    v2.open()
    assert set(v2.missing) == {"cpu"}


def test_v2_limits(v2: GroupsV2, tmp_path: Path) -> None:
    v2.open()
    group = v2.create("sb_1", Limits(memory=64 * MIB, cpu=0.5, pids=10))
    path = tmp_path / "unit/hearth-inst/sb_1"
    said = {
        name: (path / name).read_text().strip()
        for name in ("memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max")
    }
    assert said == {
        "memory.max": str(64 * MIB),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "50000 100000",
        "pids.max": "13",
    }
    assert group.joins == (str(path / "cgroup.procs"),)
    group.kill()
    assert (path / "cgroup.kill").read_text() == "1"
    assert list(v2.existing()) == ["sb_1"]


def test_v2_does_not_kill_by_lowering(v2: GroupsV2, tmp_path: Path) -> None:
    v2.open()
    group = v2.create("sb_1", Limits(memory=64 * MIB))
    (tmp_path / "unit/hearth-inst/sb_1/memory.current").write_text(str(50 * MIB))
    with pytest.raises(OSError, match="used already") as caught:
        group.set_limits(Limits(memory=32 * MIB))
    assert caught.value.errno == errno.EBUSY
    group.set_limits(Limits(memory=128 * MIB))


def test_v2_usage(tmp_path: Path) -> None:
    fill(
        tmp_path,
        memory__current="100\n", memory__peak="200\n", cpu__stat="usage_usec 2500000\nuser_usec 1\n", pids__current="4\n",
        memory__events="low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 1\n",
    )  # fmt: skip
    assert GroupV2(tmp_path).usage() == Usage(100, 200, 2.5, 4, 1)
    (tmp_path / "memory.peak").unlink()  # before Linux 5.19
    assert GroupV2(tmp_path).usage().memory_peak == 100


def test_control_files_are_written_at_once_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "nothing", "1")
    assert files.write_if_there(tmp_path / "nothing", "1") is False
    assert files.number(tmp_path / "nothing", 7) == 7
    assert files.field(tmp_path / "nothing", "x") == 0
