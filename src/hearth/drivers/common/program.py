"""Looking at a sandbox's program from outside, in /proc (proc(5))."""

from __future__ import annotations

from pathlib import Path

from hearth.core.errors import SandboxFailed


def first_child(pid: int) -> int | None:
    """The child of the sandbox's pid 1 that is, or becomes, the program."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:  # the process is gone, or the kernel has no CONFIG_PROC_CHILDREN
        children = [entry.name for entry in Path("/proc").glob("[0-9]*") if _parent(entry) == pid]
    except OSError:
        return None
    return int(children[0]) if children else None


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def has_started(pid: int, bubblewrap: int) -> bool:
    """Whether it has become another program than bubblewrap, which is the last thing that bubblewrap does."""
    try:
        return not Path(f"/proc/{pid}/exe").samefile(f"/proc/{bubblewrap}/exe")
    except OSError:
        return False


def check_confined(pid: int, uid: int, gid: int) -> None:
    """Raise SandboxFailed when the process is not confined as every program must be."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if status.get("State", "").startswith("Z"):
        return
    wrong = [
        name
        for name, wanted in (
            ("Uid", "\t".join([str(uid)] * 4)),
            ("Gid", "\t".join([str(gid)] * 4)),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
            *((f"Cap{kind}", "0" * 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")),
        )
        if status.get(name, "").strip() != wanted
    ]
    if wrong:
        raise SandboxFailed(
            f"the program is less confined than it must be ({', '.join(wrong)}); it was not run on"
        )
