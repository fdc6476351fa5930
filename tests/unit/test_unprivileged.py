"""What an ordinary user lacks, and the command that mends it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearth.core.errors import StartupFailed
from hearth.core.finding import Finding
from hearth.core.launch import Network
from hearth.drivers.bubblewrap import unprivileged
from hearth.egress import own_rules
from hearth.egress.own_machine import network_findings
from hearth.egress.policy import DENY4
from hearth.egress.readback import differences
from hearth.egress.ruleset import Member, member_for
from hearth.supervisor import rundir
from hearth.supervisor.life import Life


def setting(root: Path, name: str, value: str) -> None:
    path = root / name.replace(".", "/", 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value + "\n")


@pytest.mark.parametrize(
    ("name", "forbids"),
    [
        ("kernel.apparmor_restrict_unprivileged_userns", "1"),
        ("kernel.unprivileged_userns_clone", "0"),
        ("user.max_user_namespaces", "0"),
    ],
)
def test_each_kernel_setting_that_forbids_has_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, forbids: str
) -> None:
    monkeypatch.setattr(unprivileged, "_TRIAL", "raise OSError('Operation not permitted')")
    setting(tmp_path, "user.max_user_namespaces", "1000")
    setting(tmp_path, name, forbids)
    found = unprivileged.user_namespaces(tmp_path)
    assert not found.holds and found.needed
    assert "Operation not permitted" in found.says
    assert f"{name}=" in found.mend and "sysctl" in found.mend


def test_where_no_setting_forbids_it_a_container_is_suspected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unprivileged, "_TRIAL", "raise SystemExit(1)")
    assert "--security-opt" in unprivileged.user_namespaces(tmp_path).mend


def test_the_start_is_refused_with_that_command(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Finding("user namespaces", False, "an ordinary user may not", "mend-it", needed=True)
    monkeypatch.setattr(unprivileged, "user_namespaces", lambda: lacking)
    with pytest.raises(StartupFailed) as told:
        unprivileged.check_unprivileged()
    assert told.value.hint is not None and told.value.hint.startswith("mend-it")


def test_what_networks_lack(tmp_path: Path) -> None:
    found = {one.name: one for one in network_findings(tmp_path / "tun", search=str(tmp_path))}
    assert not found["slirp4netns"].holds and "apt-get install slirp4netns" in found["slirp4netns"].mend
    assert not found["tun device"].holds and "/dev/net/tun" in found["tun device"].mend


# The rules, as text; that they hold is tried in tests/user/test_sandboxes.py.


def test_the_table_is_closed_until_it_is_opened() -> None:
    text = own_rules.script([])
    assert "set inet4 { type ipv4_addr; }" in text
    assert all(str(network) in text for network in DENY4)
    assert own_rules.opened(member_for("tap0", own_rules.ADDRESS, Network("none"))) == ""


def test_opening_names_exactly_what_is_allowed() -> None:
    member = member_for("tap0", own_rules.ADDRESS, Network("internet", allow=(("10.0.0.5", 443),)))
    assert own_rules.opened(member).splitlines() == [
        "add element inet hearth inet4 { 10.0.2.100 }",
        "add element inet hearth allow4 { 10.0.0.5 . tcp . 443 }",
    ]
    assert own_rules.opened(Member("tap0", own_rules.ADDRESS, False)) == ""


def test_every_chain_drops_by_policy_and_what_is_missing_is_noticed() -> None:
    hooked = {chain.hook[1]: chain.policy for chain in own_rules.CHAINS if chain.hook}
    assert hooked == {"output": "drop", "input": "drop", "forward": "drop"}
    wrong = differences(own_rules.CHAINS, own_rules.SETS, [])
    assert "chain sent is missing" in wrong and "set deny4 is missing" in wrong


# The folder of sockets, and the lock that tells of life.


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for sockets."""
    with tempfile.TemporaryDirectory(prefix="h-", dir="/tmp") as folder:
        yield Path(folder)


def test_the_folder_of_sockets_is_empty_and_its_users_alone(short: Path) -> None:
    runtime, data = short / "runtime", short / "data"
    runtime.mkdir(mode=0o700)
    data.mkdir()
    (runtime / "hearth-0a1b2c3d").mkdir()
    (runtime / "hearth-0a1b2c3d/old.sock").touch()
    made = rundir.make_own("0a1b2c3d", data, runtime)
    assert made == runtime / "hearth-0a1b2c3d"
    assert list(made.iterdir()) == [] and made.stat().st_mode & 0o777 == 0o700
    rundir.remove(made, root=False)
    assert not made.exists()


@pytest.mark.parametrize("kind", ["none", "open to others", "a link", "missing"])
def test_a_runtime_folder_that_is_not_his_alone_is_not_used(short: Path, kind: str) -> None:
    runtime, data = short / "runtime", short / "data"
    data.mkdir()
    if kind == "open to others":
        runtime.mkdir()
        runtime.chmod(0o755)
    elif kind == "a link":
        (short / "other").mkdir(mode=0o700)
        runtime.symlink_to(short / "other")
    assert rundir.make_own("i", data, None if kind == "none" else runtime) == data / "run"


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    data = tmp_path / ("d" * 100)
    data.mkdir()
    with pytest.raises(StartupFailed, match="sockets"):
        rundir.make_own("i", data, None)
    path = Path("/tmp") / ("x" * (rundir._LONGEST - len("/tmp/")))
    with (
        socket.socket(socket.AF_UNIX) as sock,
        pytest.raises(FileNotFoundError),
    ):  # it fits: it is only not there
        sock.connect(str(path / "control" / "api.sock"))


def test_life_lasts_as_long_as_any_copy_of_its_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hearth.supervisor.life._PATIENCE", 0.1)
    first = Life(tmp_path)
    inherited = os.dup(first.fd)
    first.close()
    with pytest.raises(StartupFailed, match="earlier hearth"):
        Life(tmp_path)
    os.close(inherited)
    Life(tmp_path).close()
