"""`hearth doctor` on this machine, as root: what it says, that it leaves nothing, and a platform beside it or killed before it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hearth.bootstrap import trial
from hearth.core.finding import State
from hearth.core.launch import Mount, Toolchain
from hearth.egress.nft import find
from tests.e2e.platform import HEARTH, Platform, leftovers, members, until

pytestmark = pytest.mark.root
Told = dict[str, dict[str, Any]]


@pytest.fixture
def platform() -> Iterator[Platform]:
    """Not started."""
    made = Platform(Path(tempfile.mkdtemp(prefix="hearth-doctor-test-")))
    yield made
    made.put_down()
    shutil.rmtree(made.home)


def doctor(platform: Platform, *flags: str, hide: tuple[str, ...] = (), code: int = 0) -> Told:
    """What it finds on that platform's data directory, by name.

    Args:
        hide: files that are not what they are, as far as it sees.
    """
    port = () if "--port" in flags else ("--port", "0")
    done = subprocess.run(
        hiding(hide, [HEARTH, "doctor", "--json", "--data-dir", str(platform.data), *port, *flags]),
        capture_output=True,
        text=True,
        env=platform.environment,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")
    return {one["name"]: one for one in json.loads(done.stdout)}


def hiding(files: tuple[str, ...], command: list[str]) -> list[str]:
    """A command in a mount namespace where these files are empty and can't be run."""
    if not files:
        return command
    hide = "".join(f"mount --bind /dev/null {file}; " for file in files)
    return ["unshare", "--mount", "sh", "-ec", f'{hide} exec "$@"', "sh", *command]


def traces() -> set[str]:
    """All that a trial might leave: control groups, folders, links, tables, mounts, processes."""
    found = {str(path) for path in Path("/run").glob("hearth-doctor-*")}
    found |= {str(path) for path in Path(tempfile.gettempdir()).glob("hearth-doctor-????????")}
    for folder, _, _ in os.walk("/sys/fs/cgroup"):
        if "doctor-" in Path(folder).name:
            found.add(folder)
    nft = find()
    found |= {one["table"]["name"] for one in nft.show("tables") if "doctor" in str(one.get("table"))}
    nft.close()
    found |= {
        line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "hearth-doctor-" in line
    }
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"hearth.bootstrap.trial" in (entry / "cmdline").read_bytes():
                found.add(f"process {entry.name}")
        except OSError:
            continue
    return found


def test_root_holds_everything_here_and_nothing_is_made(platform: Platform) -> None:
    before = traces()
    told = doctor(platform)
    assert {one["state"] for one in told.values()} <= {"ok", "note"}
    for name in ("memory", "cpu", "pids", "tmp", "network", "seccomp", "uids", "build disks", "bubblewrap"):
        assert told[name]["state"] == "ok", told[name]
    assert told["leftovers"]["says"] == "none"
    assert not platform.data.exists()
    assert traces() == before


def test_beside_a_platform_that_runs(platform: Platform) -> None:
    platform.start()
    port = platform.url.rsplit(":", 1)[1]
    told = doctor(platform, "--port", port)
    assert platform.process is not None
    assert told["platform"]["says"] == f"running (process {platform.process.pid}), at 127.0.0.1 port {port}"
    assert told["port"]["state"] == "ok" and "own" in told["port"]["says"]
    assert "leftovers" not in told
    assert platform.call("/readyz").status == 200
    elsewhere = Platform(platform.home / "elsewhere")
    told = doctor(elsewhere, "--port", port, code=1)  # another one's data directory: then it is in the way
    assert told["port"]["state"] == "refused"
    assert f"by hearth (process {platform.process.pid})" in told["port"]["says"]
    assert platform.stop() == 0
    assert not leftovers(platform.instance, platform.data)


def test_what_a_killed_platform_left_and_the_next_start_removes(platform: Platform) -> None:
    platform.start()
    port, instance = platform.url.rsplit(":", 1)[1], platform.instance
    assert platform.process is not None
    (keeper,) = platform.pids("keeper")
    os.kill(keeper, signal.SIGSTOP)  # it would tidy up when its supervisor has gone
    for pid in (platform.process.pid, keeper):
        os.kill(pid, signal.SIGKILL)
    platform.process.wait(20)
    until(lambda: not members(instance), what="its processes did not end")
    said = doctor(platform, "--port", port)["leftovers"]
    assert said["state"] == "note"
    for what in (f"hearth-platform-{instance}", f"folder /run/hearth-{instance}", f"hearth_{instance}"):
        assert what in said["says"]
    assert leftovers(instance, platform.data)  # it has only looked
    other = doctor(Platform(platform.home / "elsewhere"))["leftovers of others"]
    assert instance in other["says"]
    platform.start()
    assert platform.stop() == 0
    assert doctor(platform, "--port", port)["leftovers"]["says"] == "none"


def test_a_port_that_is_held_by_what_was_left_is_no_hindrance(platform: Platform) -> None:
    """A process in the dead platform's own group: the next start ends it before it binds."""
    platform.start()
    platform.stop()
    group = Path(f"/sys/fs/cgroup/unified/hearth-platform-{platform.instance}")
    if not group.parent.is_dir():
        group = Path(f"/sys/fs/cgroup/hearth-platform-{platform.instance}")
    group.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = str(sock.getsockname()[1])
        os.set_inheritable(sock.fileno(), True)
        stray = subprocess.Popen(["sleep", "100"], close_fds=False)
    try:
        (group / "cgroup.procs").write_text(str(stray.pid))
        told = doctor(platform, "--port", port)
        assert told["port"]["state"] == "note"
        assert "with 1 processes" in told["leftovers"]["says"]
        platform.start(int(port))
        assert stray.wait(10) == -signal.SIGKILL
        assert platform.stop() == 0
    finally:
        stray.kill()
        stray.wait()


def test_without_bubblewrap_both_refuse_in_the_same_words(platform: Platform) -> None:
    bwrap = shutil.which("bwrap")
    assert bwrap is not None
    told = doctor(platform, hide=(bwrap,), code=1)
    assert told["bubblewrap"]["state"] == "refused"
    assert told["bubblewrap"]["mend"] == "apt-get install bubblewrap"
    up = subprocess.run(
        hiding((bwrap,), [HEARTH, "up", "--port", "0", "--data-dir", str(platform.data)]),
        capture_output=True,
        text=True,
        env=platform.environment,
        timeout=60,
        check=False,
    )
    assert up.returncode == 1
    assert told["bubblewrap"]["says"] in up.stderr and told["bubblewrap"]["mend"] in up.stderr
    assert not platform.data.exists()


def test_without_nftables_both_warn_in_the_same_words(platform: Platform) -> None:
    library = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    files = [line.split(" => ")[1] for line in library.splitlines() if "libnftables.so.1 " in line]
    hide = (*(os.path.realpath(file) for file in files), "/usr/sbin/nft")
    told = doctor(platform, hide=hide, code=1)
    assert {name for name, one in told.items() if one["state"] == "not_held"} == {"network", "nftables"}
    assert told["network"]["mend"] == "apt-get install nftables"
    with (platform.home / "log").open("w") as log:
        up = subprocess.Popen(
            hiding(hide, [HEARTH, "up", "--port", "0", "--data-dir", str(platform.data)]),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=platform.environment,
        )
    assert up.stdout is not None
    lines = []
    for line in up.stdout:
        lines.append(line.strip())
        if line.strip() == "Ready.":
            break
    up.terminate()
    assert up.wait(60) == 0
    up.stdout.close()
    warning = f"not held: network: {told['network']['says']}; run: {told['network']['mend']}"
    assert f"Warning    {warning}" in lines


def test_without_isolation_it_says_so(platform: Platform) -> None:
    told = doctor(platform, "--isolation", "process", code=1)
    assert told["isolation"]["state"] == "not_held"
    assert "bubblewrap" not in told


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_killed_it_leaves_nothing(platform: Platform, number: signal.Signals) -> None:
    before = traces()
    for seen in ("process", "/sys/fs/cgroup"):  # as soon as there is one; as soon as it has control groups
        process = subprocess.Popen(
            [HEARTH, "doctor", "--data-dir", str(platform.data), "--port", "0"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=platform.environment,
        )
        until(lambda seen=seen: any(what.startswith(seen) for what in traces() - before))
        process.send_signal(number)
        assert process.wait(60) != 0
        until(lambda: not traces() - before, what=f"left: {traces() - before}")


def test_a_trial_that_is_killed_is_no_yes_and_leaves_nothing() -> None:
    before = traces()

    def kill() -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for what in traces() - before:
                if what.startswith("process ") and any("cgroup" in other for other in traces() - before):
                    os.kill(int(what.split()[1]), signal.SIGKILL)
                    return

    killer = Thread(target=kill)
    killer.start()
    probe, found = trial.tried(None, Path("/run"))
    killer.join()
    assert probe is None
    assert [one.state for one in found] == [State.REFUSED]
    until(lambda: not traces() - before, what=f"left: {traces() - before}")


@pytest.fixture
def private() -> Iterator[Path]:
    """The prefix of an interpreter of somebody's own; not below /tmp, which every sandbox has for itself."""
    folder = Path(tempfile.mkdtemp(prefix="hearth-doctor-test-", dir="/opt"))
    folder.chmod(0o755)
    (folder / "bin").mkdir()
    yield folder
    shutil.rmtree(folder)


def test_an_interpreter_that_sandboxes_cant_run_is_told(private: Path) -> None:
    probe, found = trial.tried(Toolchain("python", "3.11.2", "/usr/bin/python3"), Path("/run"))
    assert probe is not None and probe.usable
    assert [one.state for one in found] == [State.OK]
    shutil.copy("/bin/true", private / "bin/python3.11")
    mount = Mount("prefix", str(private), str(private))
    own = Toolchain("python", "3.11.2", f"{private}/bin/python3.11", mount)
    assert [one.state for one in trial.tried(own, Path("/run"))[1]] == [State.OK]
    (private / "bin").chmod(0o700)  # root's alone
    _, found = trial.tried(own, Path("/run"))
    assert [one.state for one in found] == [State.NOT_HELD]
    assert "does not run in a sandbox" in found[0].says and "Permission denied" in found[0].says
