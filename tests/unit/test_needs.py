"""What sandboxes need of a machine, on machines that lack it, and the commands that mend it."""

from __future__ import annotations

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding, State, ok, refused
from hearth.drivers.bubblewrap import cgroup_tree, delegation, needs
from hearth.drivers.bubblewrap.cgroup_v1 import GroupsV1
from hearth.egress import nft
from hearth.egress.machine import network_findings as of_root
from hearth.egress.own_machine import network_findings as of_user
from hearth.linux import commands


@pytest.fixture(params=[0, 1000], ids=["root", "user"])
def uid(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    number = int(request.param)
    monkeypatch.setattr(os, "geteuid", lambda: number)
    monkeypatch.setattr(os, "getuid", lambda: number)
    return number


def pasted(finding: Finding, uid: int) -> str:
    """The command of a finding; a shell must take it, and who is not root must become it first."""
    assert not finding.holds
    assert finding.mend
    subprocess.run(["/bin/sh", "-n", "-c", finding.mend], check=True)
    assert finding.mend.startswith("sudo ") is (uid != 0)
    return finding.mend


def test_a_command_for_root_is_one_command_after_sudo(uid: int) -> None:
    command = commands.by_root("echo '1' > /a && cat /a")
    if uid == 0:
        assert command == "echo '1' > /a && cat /a"
    else:
        done = subprocess.run(
            ["/bin/sh", "-c", f'sudo() {{ printf "%s|" "$@"; }}; {command}'],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "sh|-c|echo '1' > /a && cat /a|"
    assert commands.install("a", "b").removeprefix("sudo ") == "apt-get install a b"


# User namespaces


def setting(root: Path, name: str, value: str) -> None:
    path = root / name.replace(".", "/", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n")


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried is refused, whoever tries it."""
    monkeypatch.setattr(needs, "_TRIAL", "raise OSError('Operation not permitted')")
    said = "echo bwrap: setting up uid map: Permission denied >&2; exit 1"
    monkeypatch.setattr(needs, "_as_nobody", lambda: ["/bin/sh", "-c", said])


@pytest.mark.parametrize(
    ("name", "forbids"),
    [
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces", "0"),
    ],
)
@pytest.mark.usefixtures("forbidden")
def test_each_kernel_setting_that_forbids_has_its_command(
    tmp_path: Path, name: str, forbids: str, uid: int
) -> None:
    setting(tmp_path, "user.max_user_namespaces", "1000")
    setting(tmp_path, name, forbids)
    found = needs.user_namespaces(root=uid == 0, sysctl=tmp_path)
    assert found.state is State.REFUSED
    assert ("Permission denied" if uid == 0 else "Operation not permitted") in found.says
    command = pasted(found, uid)
    assert f"{name}=" in command and "/etc/sysctl.d/" in command and "sysctl -p" in command
    assert "max_user_namespaces=" not in command or name == "user.max_user_namespaces"


@pytest.mark.usefixtures("forbidden")
def test_all_that_forbids_is_mended_at_once(tmp_path: Path, uid: int) -> None:
    setting(tmp_path, "kernel.apparmor_restrict_unprivileged_userns", "1")
    setting(tmp_path, "user.max_user_namespaces", "0")
    command = pasted(needs.user_namespaces(uid == 0, tmp_path), uid)
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in command
    assert "user.max_user_namespaces=" in command


@pytest.mark.usefixtures("forbidden")
def test_where_no_setting_forbids_it_a_container_is_suspected(tmp_path: Path) -> None:
    found = needs.user_namespaces(False, tmp_path)
    assert "--security-opt" in found.says and not found.mend


def test_here_they_can_be_made() -> None:
    assert needs.user_namespaces(os.geteuid() == 0).state is State.OK


# Programs, libraries, privileges


def test_a_missing_program_is_installed_by_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int
) -> None:
    for name in ("sh", "unshare", "setpriv"):
        (tmp_path / name).symlink_to("/bin/true")
    monkeypatch.setattr(needs, "_SEARCH", str(tmp_path))
    assert pasted(needs.programs(), uid).endswith("apt-get install bubblewrap")
    with pytest.raises(StartupFailed, match="sandboxes need bubblewrap"):
        needs.find_tools()
    assert needs.user_namespaces(root=True).state is State.NOTE
    (tmp_path / "setpriv").unlink()
    assert pasted(needs.programs(), uid).endswith("apt-get install bubblewrap util-linux")


def test_libseccomp(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    assert needs.seccomp().state is State.OK

    def missing(*_: object, **__: object) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert pasted(needs.seccomp(), uid).endswith("apt-get install libseccomp2")


def test_the_kernel_of_this_machine_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert needs.kernel() == ok("kernel", os.uname().release)
    monkeypatch.setattr(needs, "_MOUNT_SETATTR", 100_000)  # a system call that there is not
    assert needs.kernel().state is State.REFUSED


@pytest.mark.parametrize(
    ("effective", "lacks"), [("000001ffffffffff", ""), ("00000000a80425fb", "CAP_SYS_ADMIN")]
)
def test_root_without_its_privileges(tmp_path: Path, effective: str, lacks: str) -> None:
    """The second is what Docker gives."""
    (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{effective}\nUid:\t0\n")
    found = needs.privileges(tmp_path / "status")
    assert found.holds is not bool(lacks)
    assert lacks in found.says


def test_the_start_is_refused_by_the_same_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = refused("libseccomp", "it is not there", "mend-it")
    monkeypatch.setattr(needs, "seccomp", lambda: lacking)
    assert lacking in needs.findings(os.geteuid() == 0)
    with pytest.raises(StartupFailed, match=r"can't be isolated.*it is not there") as told:
        needs.check(os.geteuid() == 0)
    assert told.value.hint is not None and told.value.hint.startswith("run: mend-it; ")


# Control groups


V1 = "31 23 0:27 / {point}/memory rw - cgroup cgroup rw,memory\n"


def mounted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(cgroup_tree, "_mounts", lambda: cgroup_tree.parse_mounts(text))


def test_no_control_groups_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    mounted(monkeypatch, "")
    found = cgroup_tree.control_groups(root=True)
    assert found.state is State.REFUSED
    assert "mount -t cgroup2" in pasted(found, 0)


def test_control_groups_that_cant_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "memory").mkdir()
    mounted(monkeypatch, V1.format(point=tmp_path))
    assert cgroup_tree.control_groups(root=True) == ok("control groups", "v1: memory")
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = cgroup_tree.control_groups(root=True)
    assert found.state is State.REFUSED
    assert pasted(found, 0) == f"mount -o remount,rw {tmp_path}/memory"


def test_a_controller_of_v1_that_is_not_mounted_is_mounted(tmp_path: Path, uid: int) -> None:
    missing = GroupsV1("i", {"memory": tmp_path}, None).missing
    assert "mount -t cgroup -o pids none /sys/fs/cgroup/pids" in pasted(missing["pids"], uid)


SCOPE = "XDG_RUNTIME_DIR=/run/user/1000 systemd-run --user --scope -p Delegate=yes hearth up"


def manager(tree: Path, controllers: str) -> None:
    folder = tree / "user.slice/user-1000.slice/user@1000.service"
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text(controllers)


@pytest.mark.parametrize(
    ("controllers", "systemd", "command"),
    [
        ("cpu memory pids\n", True, SCOPE),
        ("memory pids\n", True, "sudo systemd-run --uid=1000 -p Delegate=yes hearth up"),
        (None, True, "sudo systemd-run --uid=1000 -p Delegate=yes hearth up"),
        ("cpu memory pids\n", False, "sudo hearth up"),
    ],
    ids=["his manager has all", "it lacks cpu", "no manager", "no systemd"],
)
def test_what_gives_an_ordinary_user_memory_and_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, controllers: str | None, systemd: bool, command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setattr(delegation, "has_systemd", lambda: systemd)
    monkeypatch.setattr(delegation, "_name", str)
    if controllers is not None:
        manager(tmp_path, controllers)
    assert delegation.own_group(("memory", "cpu"), tmp_path) == command


def test_of_version_1_nothing_is_an_ordinary_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = delegation.nothing_own(old=True)
    assert {one.mend for one in found.values()} == {"sudo hearth up"}
    assert all("version 1" in one.says for one in found.values())


def test_roots_unit_without_a_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(delegation, "has_systemd", lambda: True)
    assert delegation.not_given(["cpu"], unit=True)["cpu"].mend == "systemd-run -p Delegate=yes hearth up"
    off = delegation.not_given(["memory"], unit=False)["memory"]
    assert "switched off in this kernel" in off.says and not off.mend


# Networks


def test_what_an_ordinary_users_networks_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(nft, "_LIBRARY", "libno-such-thing.so")
    found = {one.name: one for one in of_user(tmp_path / "tun", search=str(tmp_path))}
    assert pasted(found["slirp4netns"], 1000).endswith("apt-get install slirp4netns")
    assert "chmod 0666 /dev/net/tun" in pasted(found["tun device"], 1000)
    assert pasted(found["nftables"], 1000).endswith("apt-get install libnftables1")


def test_what_roots_networks_lack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    forward = tmp_path / "ip_forward"
    forward.write_text("0\n")
    monkeypatch.setattr(os, "access", lambda *_: False)

    def missing() -> None:
        raise nft.NftMissing("nftables is not installed")

    monkeypatch.setattr("hearth.egress.machine.find", missing)
    found = {one.name: one for one in of_root(forward)}
    assert pasted(found["nftables"], 0) == "apt-get install nftables"
    assert pasted(found["forwarding"], 0) == "mount -o remount,rw /proc/sys"
    forward.write_text("1\n")  # then nobody has to write it
    assert [one.name for one in of_root(forward)] == ["nftables"]
