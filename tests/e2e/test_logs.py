"""Logs of a real platform: what hostile functions can't do to them, and what they survive."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import HEARTH, Platform, leftovers, until

pytestmark = pytest.mark.root

FORGED = "2026-01-01T00:00:00.000Z v1 platform | instance killed by forgery"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
RAW = f"{FORGED}\n\r{FORGED}\r\n{ESCAPES}\n".encode() + b"\xff\xc2\x9b2J\n"

PYTHON = f"""
import json, logging, os, socket, sys
def handler(event, context):
    print({FORGED!r}); print({FORGED + chr(10) + FORGED!r}); print({ESCAPES!r}, file=sys.stderr)
    logging.error({ESCAPES + chr(13) + FORGED!r})
    logging.addLevelName(50, "platform"); logging.critical("level")
    for fd in (1, 2):
        os.write(fd, {RAW!r})
    # The connection to the host, spoken to behind the shim's back: frames that claim to be the platform's.
    for fd in range(3, 64):
        try:
            if os.fstat(fd).st_mode & 0o170000 == 0o140000:
                line = json.dumps({{"inv": "\\x1b[2J", "stream": "platform", "source": "platform", "t": 1,
                    "level": "platform", "text": {FORGED!r}}}).encode()
                os.write(fd, len(line).to_bytes(4, "big") + bytes([16, 0, 0, 0, 0, 0]) + line)
        except OSError:
            pass
    return "ok"
"""
NODE = f"""
import fs from 'node:fs'
export const handler = async () => {{
  console.log({json.dumps(FORGED)}); console.error({json.dumps(ESCAPES + chr(10) + FORGED)})
  process.stdout.write({json.dumps(FORGED + chr(10))})
  for (const fd of [1, 2]) fs.writeSync(fd, Buffer.from({list(RAW)}))
  return 'ok'
}}
"""
GO = f"""package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"syscall"
)

func Handler(w http.ResponseWriter, r *http.Request) {{
	fmt.Println({json.dumps(FORGED)})
	slog.ErrorContext(r.Context(), {json.dumps(ESCAPES + chr(10) + FORGED)})
	for _, fd := range []int{{1, 2}} {{
		syscall.Write(fd, []byte{{{", ".join(str(byte) for byte in RAW)}}})
	}}
	os.Stdout.Sync()
	fmt.Fprint(w, "ok")
}}
"""
HOSTILE = [
    pytest.param("python", {"handler.py": PYTHON}, id="python"),
    pytest.param("node", {"handler.mjs": NODE}, id="node", marks=pytest.mark.network),
    pytest.param(
        "go",
        {"handler.go": GO, "go.mod": "module forger\n\ngo 1.21\n"},
        id="go",
        marks=pytest.mark.network,
    ),
]


@pytest.mark.parametrize(("runtime", "files"), HOSTILE)
def test_no_function_forges_a_line_of_the_platform_or_commands_a_terminal(
    platform: Platform, runtime: str, files: dict[str, str]
) -> None:
    name = f"forger-{runtime}"
    platform.deploy(name, runtime, files)
    platform.call(f"/fn/ann/{name}/")
    until(lambda: platform.cli("logs", name).count("forgery") >= 5)
    for line in platform.cli("logs", name, "--json").splitlines():
        item = json.loads(line)
        assert ("forgery" in item["text"]) <= (item["source"] == "run"), item
        assert item["level"] in ("info", "error", "warning", "debug", "critical")
        assert (item["invocation"] or "inv_").startswith("inv_")
    shown = platform.cli("logs", name)
    assert not [
        c
        for c in shown
        if c != "\n" and (unicodedata.category(c) in ("Cc", "Cf") or ord(c) in range(0x80, 0xA0))
    ]
    for line in shown.splitlines():
        head, _, text = line.partition(" | ")
        assert len(head.split()) == 3 and head.split()[1] == "v1", line
        assert ("forgery" in text) <= (head.split()[2] != "platform"), line
    assert "forgery" not in platform.cli("logs", name, "--source", "platform")


def test_the_platform_tells_what_it_did(platform: Platform) -> None:
    code = (
        "import os, time\n"
        "def handler(e, c):\n"
        "    p = e['rawPath']\n"
        "    if p == '/exit': os._exit(3)\n"
        "    if p == '/hang': time.sleep(100)\n"
        "    if p == '/eat':\n"
        "        x = []\n"
        "        while True: x.append(b'x' * 10**7)\n"
    )
    platform.deploy(
        "mortal", "python", {"handler.py": code}, timeout="1s", memory="64MiB", scale={"idle": "1s"}
    )
    told = ["version 1 is live", "instance started"]
    for path, text in (
        ("exit", "instance crashed: it exited with code 3"),
        ("eat", "instance crashed: it used more than its 64MiB of memory and was killed"),
        ("hang", "instance killed: a request ran longer than 1 s"),
    ):
        invocation = platform.call(f"/fn/ann/mortal/{path}").headers["X-Hearth-Invocation"]
        told.append(text)
        until(lambda text=text: text in platform.cli("logs", "mortal", "--source", "platform"))
    assert "killed" in platform.cli("logs", "mortal", "--invocation", invocation)
    platform.call("/fn/ann/mortal/")
    told.append("instance stopped: idle for 1 s")
    until(lambda: all(text in platform.cli("logs", "mortal") for text in told))


def test_what_is_not_there(platform: Platform) -> None:
    platform.deploy("quiet", "python", {"handler.py": "def handler(e, c): return 1\n"})
    assert "has no version 9. hint: list them" in platform.cli("logs", "quiet", "--version", "9", code=4)
    assert "there is no function ann/nobody" in platform.cli("logs", "nobody", code=4)
    assert "is no invocation's id" in platform.cli("logs", "quiet", "--invocation", "inv_1", code=2)
    invocation = platform.call("/fn/ann/quiet").headers["X-Hearth-Invocation"]
    assert platform.cli("logs", "quiet", "--invocation", invocation) == ""


class Following:
    """`hearth logs NAME -f` in the background."""

    def __init__(self, platform: Platform, name: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [HEARTH, "logs", name, "-f", "--source", "run"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=platform.environment,
        )
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n").partition(" | ")[2])

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self._thread.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process.wait(60)


def test_following_survives_control_and_shard(own_platform: Platform) -> None:
    """Killed while lines are printed; the same lines are there after the next start."""
    platform = own_platform.start()
    platform.register()
    platform.deploy("tick", "python", {"handler.py": "def handler(e, c): print('tick', e['rawPath'])\n"})
    following = Following(platform, "tick")
    try:
        numbers = itertools.count()
        said: list[str] = []

        def tick() -> bool:
            number = next(numbers)
            try:
                if platform.call(f"/fn/ann/tick/{number}", timeout=10).status != 200:
                    return False
            except OSError:  # the shard was killed while it was asked
                return False
            said.append(f"tick /{number}")
            return True

        until(tick)
        for kind in ("control", "shard"):
            killed = set(platform.pids(kind))
            # Lines leave a shard 50 ms after they were printed at the latest; a kill may take those along.
            until(lambda: said[-1] in following.lines)
            platform.kill(kind)
            until(lambda killed=killed, kind=kind: set(platform.pids(kind)) - killed)
            enough = len(said) + 5
            until(lambda enough=enough: tick() and len(said) > enough, 60)
        until(lambda: said[-1] in following.lines)
    finally:
        following.stop()
    assert [line for line in following.lines if line in said] == said
    assert len(set(following.lines)) == len(following.lines)
    stored = [
        line.partition(" | ")[2] for line in platform.cli("logs", "tick", "--source", "run").splitlines()
    ]
    assert stored == following.lines
    assert platform.stop() == 0
    platform.start()
    platform.cli(  # another port is another server

        "login", "--server", platform.url, "--email", "ann@example.com", "--password-stdin",
        stdin="correct horse battery staple\n",
    )  # fmt: skip
    kept = platform.cli("logs", "tick", "--source", "run")
    assert [line.partition(" | ")[2] for line in kept.splitlines()] == stored


def test_a_hundred_megabytes_starve_nobody_and_fill_nothing(own_platform: Platform) -> None:
    own_platform.flags = ("--log-size", "1MiB")
    platform = own_platform.start()
    platform.register()
    code = (
        "import os\n"
        "def handler(e, c):\n"
        "    if e['rawPath'] == '/print':\n"
        "        for n in range(1_000_000): print(f'{n:08}' + 'x' * 91)\n"
        "    if e['rawPath'] == '/raw':\n"
        "        data = b'y' * 99 + b'\\n'\n"
        "        for _ in range(1000):\n"
        "            view = memoryview(data * 1000)\n"
        "            while view: view = view[os.write(1, view):]\n"
        "    return 'done'\n"
    )
    platform.deploy("loud", "python", {"handler.py": code}, timeout="60s", scale={"max": 1})
    platform.deploy("other", "python", {"handler.py": "def handler(e, c): return 'fine'\n"})
    most = 0
    for path in ("print", "raw"):
        bodies: list[bytes] = []
        flood = threading.Thread(
            target=lambda path=path, bodies=bodies: bodies.append(platform.call(f"/fn/ann/loud/{path}").body)
        )
        flood.start()
        answers = 0
        while flood.is_alive():
            assert platform.call("/fn/ann/other").body == b"fine"
            answers += 1
            most = max(most, size_of(platform.data / "logs"))
        flood.join()
        assert bodies == [b"done"] and answers > 3
        assert platform.call("/fn/ann/loud/next").body == b"done"
    until(lambda: "dropped" in platform.cli("logs", "loud", "--source", "platform"))
    assert most < 1_500_000  # two functions' logs, of which one says little
    told = platform.cli("logs", "loud", "--source", "platform", "--version", "1")
    assert "version 1 is live" in told  # it was not pushed out


def size_of(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue  # removed meanwhile, which is the point
    return total


@pytest.fixture
def small_disk() -> Iterator[Platform]:
    """A platform whose home is a disk of 1 GiB."""
    folder = Path(tempfile.mkdtemp(prefix="hearth-e2e-"))
    image, home = folder / "disk", folder / "home"
    home.mkdir()
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, home], check=True)
    platform = Platform(home)
    try:
        yield platform
        assert platform.stop() == 0
        assert leftovers(platform.instance, platform.data) == []
    finally:
        platform.put_down()
        subprocess.run(["umount", home], check=True)
        shutil.rmtree(folder)


def test_a_full_disk_breaks_no_call(small_disk: Platform) -> None:
    platform = small_disk.start()
    platform.register()
    code = "def handler(e, c):\n    print('line', e['rawPath'])\n    return 'fine'\n"
    platform.deploy("writer", "python", {"handler.py": code})
    assert platform.call("/fn/ann/writer/before").body == b"fine"
    until(lambda: "line /before" in platform.cli("logs", "writer"))
    free = shutil.disk_usage(platform.data).free
    filler = platform.home / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - (100 << 20))
    assert platform.call("/fn/ann/writer/full").body == b"fine"
    until(lambda: "logs of functions can't be written" in platform.log())
    for _ in range(20):
        assert platform.call("/fn/ann/writer/full").body == b"fine"
    filler.unlink()
    assert platform.call("/fn/ann/writer/after").body == b"fine"
    until(lambda: "line /after" in platform.cli("logs", "writer"))
    until(lambda: "dropped: the disk is full" in platform.cli("logs", "writer", "--source", "platform"))
