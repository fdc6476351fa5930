"""Runs the tests of an ordinary user: tests/user, and what the driver does in namespaces of its own.

    python -m tests.user.run [ARGUMENTS OF PYTEST]

As an ordinary user it just runs them. As root it makes a user for it, gives him a copy of this tree (a clone may lie in a folder that
he can't enter) at the path where it is, in a mount namespace of its own, and removes him again. Whatever of his is still
running then is a failure.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hearth.linux import mounts
from hearth.supervisor import view

ROOT = Path(__file__).resolve().parents[2]
TUN = Path("/dev/net/tun")
# What is tried in namespaces like those of his keeper (tests/user/inside.py).
INSIDE = (
    "tests/contract/test_driver_contract.py",
    "tests/security/test_jail_calls.py",
    "tests/security/test_jail_files.py",
    "tests/security/test_jail_limits.py",
    "tests/security/test_jail_processes.py",
    "tests/security/test_hostile.py",
    "tests/user/test_sandboxes.py",
)
_NOT_COPIED = {".git", ".demo", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}
_WITHIN = "--within"
_OPTIONS = ("-p", "no:cacheprovider", "--timeout", "120")


def main(arguments: list[str]) -> int:
    if os.geteuid() != 0:
        return run_all(arguments, dict(os.environ), None)
    if arguments[:1] == [_WITHIN]:
        return within(Path(arguments[1]), pwd.getpwnam(arguments[2]), arguments[3:])
    with tempfile.TemporaryDirectory(prefix="hearth-user-") as work:
        Path(work).chmod(0o711)
        with user(Path(work)) as entry:
            again = [sys.executable, "-m", "tests.user.run", _WITHIN, work, entry.pw_name, *arguments]
            return subprocess.run(again, cwd=ROOT, check=False).returncode


def within(work: Path, entry: pwd.struct_passwd, arguments: list[str]) -> int:
    """In a process of its own, whose mounts go with it."""
    give_tree(work, entry)
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "HEARTH_", "SUDO_"))
    }
    mine = {"HOME": f"{work}/home", "USER": entry.pw_name, "TMPDIR": f"{work}/tmp"}
    return run_all(arguments, {**kept, **mine}, entry)


def run_all(arguments: list[str], environment: dict[str, str], entry: pwd.struct_passwd | None) -> int:
    """Both halves, each in a process of its own; returns the worse exit code."""
    python = str(ROOT / ".venv/bin/python")
    inside = [
        python,
        "-m",
        "tests.user.inside",
        *_OPTIONS,
        *INSIDE,
        "-m",
        "own and not uids",
        "-k",
        "not [go] and not test_go_ and not wheel",  # Go compiles its standard library first; a wheel is fetched
        *arguments,
    ]
    outside = [python, "-m", "pytest", *_OPTIONS, "tests/user", "-m", "not own", *arguments]
    environment = {**environment, "HEARTH_USER_SUITE": "1"}
    codes = []
    for command in (outside, inside):
        who = {} if entry is None else {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        codes.append(subprocess.run(command, cwd=ROOT, env=environment, check=False, **who).returncode)
    return max(codes)


@contextlib.contextmanager
def user(work: Path) -> Iterator[pwd.struct_passwd]:
    """A user that nobody else has; everything of his that still runs at the end is named and killed."""
    name = f"hearth-test-{os.getpid()}"
    home = work / "home"
    subprocess.run(
        ["useradd", "--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", name], check=True
    )
    try:
        entry = pwd.getpwnam(name)
        for folder in (home, work / "tmp"):
            folder.mkdir(mode=0o700)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        yield entry
        left = processes_of(entry.pw_uid)
        for pid in left:
            print(f"left running: {pid} {Path(f'/proc/{pid}/cmdline').read_bytes()!r}", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left:
            raise SystemExit("processes of the tests' user were left behind")
    finally:
        subprocess.run(["userdel", name], check=True)


def processes_of(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"\nUid:\t{uid}\t" in (entry / "status").read_text():
                found.append(int(entry.name))
    return found


def _ignored(folder: str, names: list[str]) -> set[str]:
    """What the user needs no copy of: a Docker daemon's data least of all, which filled a disk when it was copied while images were built."""
    docker = {"docker"} if Path(folder) == ROOT / ".venv" else set()
    return (_NOT_COPIED | docker) & set(names)


def give_tree(work: Path, entry: pwd.struct_passwd) -> None:
    """Put a copy of this tree, the user's own, in its place, and what else he needs; seen by this process and below only."""
    copy = work / "repo"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=_ignored)
    for folder, folders, files in os.walk(copy):
        for name in (".", *folders, *files):
            path = Path(folder) / name
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o600)
    for name in (
        ".npmrc",
        ".config/pip/pip.conf",
        ".pip/pip.conf",
    ):  # where packages come from on this machine
        theirs, ours = work / "home" / name, Path.home() / name
        if ours.is_file():
            theirs.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ours, theirs)
            for path in (theirs, *theirs.parents):
                if path.is_relative_to(work / "home"):
                    os.chown(path, entry.pw_uid, entry.pw_gid)
    view.enter(work / "view", [ROOT, Path(sys.base_prefix).resolve()])
    mounts.bind(copy, ROOT)
    if TUN.exists() and stat.S_IMODE(TUN.stat().st_mode) & 0o006 != 0o006:
        # Everywhere else udev makes it so; this machine's own stays as it is.
        device = work / "tun"
        device.mkdir()
        mounts.mount("tmpfs", device, "tmpfs", mounts.MS_NOSUID | mounts.MS_NOEXEC)
        os.mknod(device / "tun", stat.S_IFCHR, TUN.stat().st_rdev)
        (device / "tun").chmod(0o666)
        mounts.bind(device / "tun", TUN)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
