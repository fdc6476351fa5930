"""An ordinary user's platform: the rules of his networks, the folder of his sockets, the lock that tells of life."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hearth.core.addresses import DENY4
from hearth.core.errors import StartupFailed
from hearth.core.launch import Network
from hearth.egress import own_rules
from hearth.egress.readback import differences
from hearth.egress.ruleset import Member, member_for
from hearth.supervisor import rundir
from hearth.supervisor.life import Life

# The rules, as text; that they hold is tried in tests/user/test_sandboxes.py.


def test_the_table_is_closed_until_it_is_opened() -> None:
    text = own_rules.script([])
    assert "set inet4 { type ipv4_addr; }" in text
    assert all(str(network) in text for network in DENY4)
    assert own_rules.opened(member_for("tap0", own_rules.ADDRESS, Network("none"))) == ""


def test_opening_names_exactly_what_is_allowed() -> None:
    member = member_for("tap0", own_rules.ADDRESS, Network("internet", allow=(("10.0.0.5", 443),)))
    assert own_rules.opened(member).splitlines() == [
        "add element inet hearth inet4 { 192.0.2.100 }",
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
