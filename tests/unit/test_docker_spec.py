"""What is sent to the daemon: the container's settings as a whole, and the seccomp profile beside bubblewrap's filters."""

from __future__ import annotations

import random

import pytest

from hearth.core.launch import Limits, Usage
from hearth.drivers.common import seccomp as tables
from hearth.drivers.docker import profile
from hearth.drivers.docker.figures import usage_of
from hearth.drivers.docker.images import IMAGES, dockerfile
from hearth.drivers.docker.spec import HOLD, Bind, Container, config

MIB = 1 << 20
WANTED = Container(
    image="hearth-python",
    argv=("/usr/bin/python3", "-c", "pass"),
    env=(("A", "b=c"),),
    labels=(("hearth.instance", "i"), ("hearth.owner", "own_x"), ("hearth.sandbox", "sb_x")),
    user=(231072, 231072),
    limits=Limits(memory=64 * MIB, cpu=0.5, pids=62, tmp=MIB),
    binds=(Bind("/run/x/1", "/hearth", follows=True), Bind("/run/x/tmp", "/tmp", writable=True)),
    workdir="/tmp",
    profile="{}",
)


def test_a_container_as_a_whole() -> None:
    assert config(WANTED) == {
        "Image": "hearth-python",
        "Entrypoint": ["/bin/sh", "-c", HOLD, "hold"],
        "Cmd": ["/usr/bin/python3", "-c", "pass"],
        "User": "231072:231072",
        "Env": ["A=b=c"],
        "WorkingDir": "/tmp",
        "Hostname": "fn",
        "Labels": {"hearth.instance": "i", "hearth.owner": "own_x", "hearth.sandbox": "sb_x"},
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGTERM",
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": True,
        "Tty": False,
        "HostConfig": {
            "NetworkMode": "none",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges", "seccomp={}"],
            "Memory": 64 * MIB,
            "MemorySwap": 64 * MIB,
            "NanoCpus": 500_000_000,
            "PidsLimit": 64,
            "Ulimits": [
                {"Name": "nofile", "Soft": 1024, "Hard": 1024},
                {"Name": "core", "Soft": 0, "Hard": 0},
            ],
            "OomScoreAdj": 500,
            "IpcMode": "private",
            "ShmSize": 16 * MIB,
            "CgroupnsMode": "private",
            "Init": True,
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "none", "Config": {}},
            "Mounts": [
                {
                    "Type": "bind",
                    "Source": "/run/x/1",
                    "Target": "/hearth",
                    "ReadOnly": True,
                    "BindOptions": {"Propagation": "rslave"},
                },
                {
                    "Type": "bind",
                    "Source": "/run/x/tmp",
                    "Target": "/tmp",
                    "ReadOnly": False,
                    "BindOptions": {"Propagation": "rprivate"},
                },
            ],
        },
    }


def test_gvisor_has_room_for_its_own_threads_and_docker_makes_tmp_where_nobody_else_does() -> None:
    host = config(
        Container(**{**{f: getattr(WANTED, f) for f in WANTED.__slots__}, "runtime": "runsc", "tmp": MIB})
    )
    assert host["HostConfig"]["Runtime"] == "runsc"
    assert host["HostConfig"]["PidsLimit"] >= 128 + 62  # with less it died without a word
    assert host["HostConfig"]["Tmpfs"]["/tmp"].startswith(f"rw,nosuid,nodev,exec,size={MIB},")


@pytest.mark.parametrize("values", [tables.TERMINAL_TRICKS, (tables.SO_LINGER,), (0, 0xFFFFFFFF)])
def test_all_but_some_values_is_just_that(values: tuple[int, ...]) -> None:
    blocks = profile.all_but(values)
    assert not any(value & mask == under for value in values for mask, under in blocks)
    chance = random.Random(7)
    near = {value ^ 1 << bit for value in values for bit in range(32)} - set(values)
    for value in [*near, *(chance.getrandbits(32) for _ in range(2000))]:
        if value not in values:
            assert sum(value & mask == under for mask, under in blocks) == 1


def test_the_profile_allows_what_the_filters_allow_and_names_all_calls() -> None:
    made = profile.profile("x86_64", profile.known_calls())
    allowed = {
        name for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]
    }
    by_argument = {"clone", "personality", "socket", "socketpair", "mknod", "mknodat"}
    assert allowed == set(tables.ALLOWED.split()) | by_argument
    refused = {
        name for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ERRNO" for name in rule["names"]
    }
    assert set(tables.REFUSED.split()) <= refused
    assert set(profile.known_calls()) <= allowed | refused
    whole = {
        n
        for rule in made["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule["args"]
        for n in rule["names"]
    }
    assert not whole & {"ioctl", "prctl", "setsockopt", "chmod", "socket", "clone", *tables.REFUSED.split()}
    assert made["architectures"] == ["SCMP_ARCH_X86_64"]


def test_figures_of_a_daemon_that_knows_no_peak() -> None:
    stats = {
        "memory_stats": {"usage": 5},
        "cpu_stats": {"cpu_usage": {"total_usage": 2_000_000_000}},
        "pids_stats": {"current": 3},
    }
    assert usage_of(stats, Usage(0, 9, 0.0, 0)) == Usage(5, 9, 2.0, 3)
    assert usage_of({}, Usage(0, 9, 2.0, 0)) == Usage(0, 9, 2.0, 0)


@pytest.mark.parametrize("language", IMAGES)
def test_images_are_small_and_have_no_root_by_default(language: str) -> None:
    text = dockerfile(language)
    assert text.count("FROM debian:12-slim") == 1
    assert "\nUSER 65534:65534\n" in text
    assert "--no-install-recommends" in text
