"""Names and places that come from less trusted processes."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hearth.core.errors import HearthError, InvalidInput, NotFound, SandboxFailed
from hearth.core.ids import new_id
from hearth.core.launch import Disk, Mount, Network, SandboxSpec
from hearth.drivers.bubblewrap import machine
from hearth.drivers.common.sources import Sources, check_spec


def fresh(kind: str) -> str:
    return new_id(kind, time.time_ns() // 1_000_000, secrets.token_bytes(10))


GOOD = SandboxSpec(id=fresh("sandbox"), owner=fresh("owner"), argv=("/bin/sh",))


def test_a_plain_spec_passes() -> None:
    check_spec(GOOD)
    check_spec(
        replace(
            GOOD,
            env=(("npm_config_//host/:_authToken", "x=y"),),
            mounts=(Mount("shim", "go", "/hearth-shim"), Mount("prefix", "/root/.py/3.12", "/root/.py/3.12")),
            disk=Disk("ns_1", 1 << 30, "/build"),
            network=Network("internet", (("10.0.0.1", 443),), (("pypi.org", "10.0.0.1"),)),
        )
    )


@pytest.mark.parametrize(
    "change",
    [
        {"id": "sb_../../etc"},
        {"id": ""},
        {"owner": "me"},
        {"argv": ()},
        {"argv": ("sh",)},
        {"argv": ("/bin/sh", "a\0b")},
        {"env": (("", "x"),)},
        {"env": (("A=B", "x"),)},
        {"env": (("A", "x\0--bind"),)},
        {"workdir": "tmp"},
        {"workdir": "/tmp/../.."},
        {"mounts": (Mount("toolchain", "x", "/proc/sys"),)},
        {"mounts": (Mount("toolchain", "x", "/hearth/code"),)},
        {"mounts": (Mount("toolchain", "x", "/tmp/x"),)},
        {"mounts": (Mount("toolchain", "x", "/"),)},
        {"mounts": (Mount("toolchain", "x", "/a/../etc"),)},
        {"mounts": (Mount("toolchain", "x", "/a//b"),)},
        {"mounts": (Mount("toolchain", "x", "/a/."),)},
        {"mounts": (Mount("toolchain", "x", "/a b"),)},
        {"mounts": (Mount("toolchain", "x", "relative"),)},
        {"mounts": (Mount("toolchain", "x", "/t"), Mount("seed", "y", "/t"))},
        {"mounts": (Mount("prefix", "/opt/py", "/opt/other"),)},
        {"disk": Disk("../x", 1 << 30, "/work")},
        {"disk": Disk("x", 1 << 30, "/usr/x")},
        {"disk": Disk("x", 0, "/work")},
        {"network": Network("internet", (("pypi.org", 443),))},
        {"network": Network("internet", (("10.0.0.1", 0),))},
        {"network": Network("internet", (), (("a\n10.0.0.1 b", "10.0.0.1"),))},
        {"network": Network("internet", (), (("a", "10.0.0.1\nx"),))},
    ],
    ids=str,
)
def test_what_could_be_misread_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        check_spec(replace(GOOD, **change))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "artifacts" / "good" / "sub").mkdir(parents=True)
    (tmp_path / "artifacts" / "file").write_text("x")
    (tmp_path / "artifacts" / "link").symlink_to("good")
    (tmp_path / "outside").mkdir()
    (tmp_path / "artifacts" / "out").symlink_to(tmp_path / "outside")
    return tmp_path / "artifacts"


def test_a_folder_is_opened_by_name(folder: Path) -> None:
    sources = Sources({"artifact": folder}, (str(folder),))
    for kind, name, wanted in (("artifact", "good", folder / "good"), ("prefix", str(folder), folder)):
        fd = sources.open(kind, name)
        assert os.path.samestat(os.fstat(fd), wanted.stat())
        os.close(fd)
    sources.close()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("nothing", NotFound),
        ("file", NotFound),
        ("link", SandboxFailed),
        ("out", SandboxFailed),
        ("..", InvalidInput),
        (".", InvalidInput),
        ("", InvalidInput),
        ("good/sub", InvalidInput),
        ("good\n", InvalidInput),
        ("/etc", InvalidInput),
        ("-x", InvalidInput),
    ],
)
def test_other_names_are_refused(folder: Path, name: str, error: type[HearthError]) -> None:
    with pytest.raises(error):
        Sources({"artifact": folder}, ()).open("artifact", name)


def test_prefixes_and_kinds_that_nobody_allowed(folder: Path) -> None:
    sources = Sources({"artifact": folder}, ())
    for kind, name in (("prefix", str(folder)), ("prefix", "/"), ("source", "good"), ("shim", "python")):
        with pytest.raises(InvalidInput):
            sources.open(kind, name)


def test_a_folder_that_becomes_a_link_is_not_followed(folder: Path) -> None:
    """The data directory belongs to an unprivileged user, who may swap its folders at any time."""
    sources = Sources({"artifact": folder}, ())
    folder.rename(folder.parent / "moved")
    folder.symlink_to(folder.parent / "moved")
    with pytest.raises(SandboxFailed):
        sources.open("artifact", "good")


def test_the_hosts_layout(tmp_path: Path) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "sbin").symlink_to("/usr/sbin")
    (tmp_path / "lib").mkdir()
    (tmp_path / "etc" / "ssl" / "certs").mkdir(parents=True)
    links, system = machine.host_layout(tmp_path)
    assert links[:2] == (("/bin", "usr/bin"), ("/sbin", "usr/sbin"))
    assert system == ("/usr", "/lib", "/etc/ssl/certs")
