"""`hearth doctor` as an ordinary user: the same as his `hearth up` says, and nothing is left of what it tries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.e2e.platform import HEARTH, Platform, until
from tests.user.conftest import held, running, sandboxes

Told = dict[str, dict[str, Any]]


def doctor(platform: Platform, *flags: str, before: tuple[str, ...] = ()) -> tuple[int, Told]:
    """Its exit code, and what it finds on that platform's data directory, by name."""
    port = () if "--port" in flags else ("--port", "0")
    done = subprocess.run(
        [*before, HEARTH, "doctor", "--json", "--data-dir", str(platform.data), *port, *flags],
        capture_output=True,
        text=True,
        env=platform.environment,
        timeout=100,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, {one["name"]: one for one in json.loads(done.stdout)}


def lost(told: Told) -> set[str]:
    return {name for name, one in told.items() if one["state"] in ("not_held", "refused")}


def test_it_says_what_up_says_and_leaves_nothing(own_platform: Platform) -> None:
    temporary = set(Path(tempfile.gettempdir()).iterdir())
    code, told = doctor(own_platform)
    assert not own_platform.data.exists()
    assert set(Path(tempfile.gettempdir()).iterdir()) == temporary
    assert not running("hearth.bootstrap.trial")
    assert (code, bool(lost(told))) in ((0, False), (1, True))
    own_platform.start()
    limits = {"memory", "cpu", "pids", "tmp", "network", "seccomp"}
    assert limits & lost(told) == limits - held(own_platform)
    for name in limits & lost(told):
        warnings = [line for line in own_platform.output if "not held: " in line and name in line]
        assert any(told[name]["says"] in line for line in warnings)
        assert told[name]["mend"]
    assert told["uids"]["state"] == "note"  # said, but no promise of his: the exit code is not about it


def test_beside_his_platform_that_runs(own_platform: Platform) -> None:
    own_platform.start()
    port = own_platform.url.rsplit(":", 1)[1]
    _, told = doctor(own_platform, "--port", port)
    assert own_platform.process is not None
    pid = own_platform.process.pid
    assert told["platform"]["says"] == f"running (process {pid}), at 127.0.0.1 port {port}"
    assert told["port"]["state"] == "ok"
    assert {"memory", "cpu"} & lost(told) == {"memory", "cpu"} - held(own_platform)
    assert own_platform.call("/readyz").status == 200


def test_what_a_killed_platform_left(own_platform: Platform) -> None:
    own_platform.start()
    assert own_platform.process is not None
    before = sandboxes()
    own_platform.process.kill()
    own_platform.process.wait(20)
    until(lambda: not set(before) & set(sandboxes()), what="its processes did not end")
    places = [own_platform.data / "run"]
    if "XDG_RUNTIME_DIR" in os.environ:
        places.append(Path(os.environ["XDG_RUNTIME_DIR"]) / f"hearth-{own_platform.instance}")
    left = [place for place in places if place.exists()]
    assert left
    _, told = doctor(own_platform)
    assert all(f"folder {place}" in told["leftovers"]["says"] for place in left)
    own_platform.start()
    assert own_platform.stop() == 0
    assert doctor(own_platform)[1]["leftovers"]["says"] == "none"


def test_a_data_directory_that_is_anothers(own_platform: Platform) -> None:
    code, told = doctor(own_platform, "--data-dir", "/var/lib/somebody-elses")
    assert code == 1
    assert told["data directory"]["state"] == "refused"
    assert "Permission denied" in told["data directory"]["says"]


# A namespace of his own in which no further one may be made, as on a machine that forbids them (user_namespaces(7)).
NONE_ALLOWED = """
import ctypes, os, sys
assert ctypes.CDLL(None).unshare(0x10000000) == 0
with open("/proc/self/setgroups", "w") as file: file.write("deny")
uid, gid = map(int, sys.argv[1:3])
with open("/proc/self/uid_map", "w") as file: file.write(f"{uid} {uid} 1")
with open("/proc/self/gid_map", "w") as file: file.write(f"{gid} {gid} 1")
with open("/proc/sys/user/max_user_namespaces", "w") as file: file.write("0")
os.execv(sys.argv[3], sys.argv[3:])
"""


def test_where_user_namespaces_are_forbidden_both_refuse_in_the_same_words(own_platform: Platform) -> None:
    before = (sys.executable, "-c", NONE_ALLOWED, str(os.getuid()), str(os.getgid()))
    code, told = doctor(own_platform, before=before)
    found = told["user namespaces"]
    assert (code, found["state"]) == (1, "refused")
    assert found["mend"].startswith("sudo ") and "user.max_user_namespaces=" in found["mend"]
    up = subprocess.run(
        [*before, HEARTH, "up", "--port", "0", "--data-dir", str(own_platform.data)],
        capture_output=True,
        text=True,
        env=own_platform.environment,
        timeout=60,
        check=False,
    )
    assert up.returncode == 1
    assert found["says"] in up.stderr and found["mend"] in up.stderr
    assert not own_platform.data.exists()
