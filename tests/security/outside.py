"""What must be seen of a sandbox from outside: in /proc, in the files of its control groups, in its file system.

Nothing here asks the driver what it did; only which processes and which uid are a sandbox's.
"""

from __future__ import annotations

import os
from pathlib import Path

from hearth.core.launch import Handle, Limits
from hearth.drivers.bubblewrap.cgroups import OWN_PIDS, parse_mounts
from tests.contract.driver_cases import Rig

NAMESPACES = ("user", "pid", "net", "ipc", "uts", "cgroup", "mnt")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def session_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[3])


def children_of(pid: int) -> list[int]:
    """Of all its threads: a program may start processes from any of them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(word) for word in (task / "children").read_text().split()]
    return found


def descendants_of(pid: int) -> list[int]:
    found = []
    for child in children_of(pid):
        found += [child, *descendants_of(child)]
    return found


def limit_of(pid: int, name: str) -> list[str]:
    """Soft and hard limit as /proc/PID/limits says."""
    return Path(f"/proc/{pid}/limits").read_text().split(name)[1].split()[:2]


def unconfined(pid: int, uid: int) -> set[str]:
    """What is not as it must be of any process of a sandbox."""
    status = status_of(pid)
    wanted = {
        "Uid": "\t".join([str(uid)] * 4),
        "Gid": "\t".join([str(uid)] * 4),
        "Groups": "",
        **{f"Cap{kind}": "0" * 16 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")},
        "NoNewPrivs": "1",
        "Seccomp": "2",
        "Seccomp_filters": "2",
    }
    found = {name for name, value in wanted.items() if status.get(name) != value}
    for name in NAMESPACES:
        if os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}"):
            found.add(f"ns {name}")
    if Path(f"/proc/{pid}/oom_score_adj").read_text().strip() != "500":
        found.add("oom_score_adj")
    if os.sched_getscheduler(pid) != os.SCHED_BATCH:
        found.add("scheduler")
    if limit_of(pid, "Max core file size")[1] != "0":
        found.add("core")
    if not any("/hearth-" in group for group in groups_of(pid) - groups_of(os.getpid())):
        found.add("cgroup")
    return found


def groups_of(pid: int) -> set[str]:
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def problems(child: int, payload: int, uid: int) -> set[str]:
    """Everything that is not as it must be: of the sandbox's pid 1, of its program, of all that the program started."""
    found = set()
    for pid in {child, payload, *descendants_of(child)}:
        found |= unconfined(pid, uid)
    for pid, number in ((child, "1"), (payload, "2")):
        if status_of(pid)["NSpid"] != f"{pid}\t{number}":
            found.add("NSpid")
    if session_of(payload) != payload and status_of(payload)["NSsid"].split()[1:] != ["1"]:
        found.add("session")
    environment = Path(f"/proc/{child}/environ").read_bytes().rstrip(b"\0").split(b"\0")
    if not set(environment) <= {b"PATH=/usr/bin:/bin", b"PWD=/"}:
        found.add(f"environ of pid 1: {environment}")
    return found


def pids_of(rig: Rig, handle: Handle) -> tuple[int, int]:
    """(the sandbox's pid 1, its program)."""
    child = rig.inner._table.find(handle)._child.pid
    children = children_of(child)
    return child, children[0] if children else child


async def look(rig: Rig, handle: Handle) -> set[str]:
    child, payload = pids_of(rig, handle)
    return problems(child, payload, rig.inner._table.find(handle)._uid)


def held(pid: int) -> dict[str, float]:
    """The limits that hold for a process, as its control groups and its /tmp say. -1: there is none."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    own = {name: path.lstrip("/") for _, names, path in lines for name in names.split(",")}

    def read(controller: str, first: str, second: str) -> list[str]:
        """Of the controller's v1 file where it is mounted as v1, else of the v2 file."""
        for mount in mounts:
            if controller in mount.controllers:
                return (mount.point / own[controller] / first).read_text().split()
        unified = next(mount.point for mount in mounts if mount.version == 2)
        return (unified / own[""] / second).read_text().split()

    both = 0.0
    memory = float(read("memory", "memory.limit_in_bytes", "memory.max")[0])
    if any("memory" in mount.controllers for mount in mounts):
        both = float(read("memory", "memory.memsw.limit_in_bytes", "")[0])
    else:
        both = memory + float(read("memory", "", "memory.swap.max")[0])
    quota = read("cpu", "cpu.cfs_quota_us", "cpu.max")
    period = quota[1] if len(quota) > 1 else read("cpu", "cpu.cfs_period_us", "cpu.max")[0]
    tmp = os.statvfs(f"/proc/{pid}/root/tmp")
    return {
        "memory": memory,
        "memory and swap": both,
        "cpu": float(quota[0]) / float(period),
        "pids": float(read("pids", "pids.max", "pids.max")[0]) - OWN_PIDS,
        "tmp": tmp.f_blocks * tmp.f_frsize,
        "open files": float(limit_of(pid, "Max open files")[1]),
    }


def asked(limits: Limits) -> dict[str, float]:
    """What `held` must be."""
    return {
        "memory": limits.memory,
        "memory and swap": limits.memory,
        "cpu": limits.cpu,
        "pids": limits.pids,
        "tmp": limits.tmp,
        "open files": limits.open_files,
    }
