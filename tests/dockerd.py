"""A Docker daemon of the tests' own: its own data, sockets and folders, no bridge, no firewall rules; and the runtime images for it.

    python -m tests.dockerd

makes what it needs and keeps it in the virtual environment: a Debian by debootstrap, in place of the registry's, and a daemon's data with the
images that are built on it. `scripts/test` does so. One daemon at a time uses them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from hearth.drivers.docker import images
from hearth.drivers.docker.engine import Engine
from tests.patience import patient
from tests.vm.image import apt_settings, archive, sources

KEPT = Path(sys.prefix) / "docker"
BASE = "debian:12-slim"  # what the Dockerfiles begin with
PROGRAMS = ("dockerd", "containerd", "containerd-shim-runc-v2", "runc", "docker-init")
PATH = f"{Path(sys.prefix) / 'bin'}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# ptrace: works wherever the tests may run, also in a virtual machine without its own virtualisation.
RUNSC = ["--platform=ptrace", "--network=none", "--host-uds=open"]


class Dockerd:
    """One daemon, started at once.

    Args:
        folder: its own, empty; short, for its sockets' sake.
        data: where its images are.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._data = data
        self.configure(live_restore=False)
        self.process = self._start()

    def configure(self, *, live_restore: bool) -> None:
        """Takes effect when it is started, or told by SIGHUP.

        Args:
            live_restore: containers outlive it.
        """
        runsc = shutil.which("runsc", path=PATH)
        runtimes = {"runsc": {"path": runsc, "runtimeArgs": RUNSC}} if runsc else {}
        text = json.dumps({"runtimes": runtimes, "live-restore": live_restore})
        (self.folder / "daemon.json").write_text(text)

    def _start(self) -> subprocess.Popen[bytes]:
        (self.folder / "pid").unlink(missing_ok=True)
        where = self.folder
        command = [
            *("dockerd", "--config-file", where / "daemon.json", "--data-root", self._data),
            *("--exec-root", where / "exec", "--pidfile", where / "pid", "--host", f"unix://{self.socket}"),
            *(
                "--bridge",
                "none",
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "--group",
                str(os.getgid()),
            ),
        ]
        with (where / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env={"PATH": PATH},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + patient(60)
        while time.monotonic() < deadline and process.poll() is None:
            if self._answers():
                return
            time.sleep(0.05)
        raise RuntimeError(f"dockerd did not come up: {(self.folder / 'log').read_text()[-2000:]}")

    def _answers(self) -> bool:
        """By hand: httpx leaves the socket of a refused connection open."""
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(patient(10))
            sock.connect(str(self.socket))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False

    def kill(self) -> None:
        """Let it crash, with its containerd; containers' shims live on."""
        for pid in (self.process.pid, *_below(self.process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        # Where nobody collects orphans, the dead containerd would pass for a living one.
        (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def start(self) -> None:
        """Start it again, after `kill` or `stop`."""
        self.process = self._start()

    def stop(self) -> None:
        """As its service's stop."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patient(60))
            except subprocess.TimeoutExpired:
                self.kill()

    def close(self) -> None:
        """Stop it and remove all of it, shims included that a crash of it has left."""
        self.stop()
        for pid in _of(f"{self.folder}/exec/"):
            for one in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split(" ")[4]
            if point == str(self._data) or point.startswith((f"{self.folder}/", f"{self._data}/")):
                subprocess.run(["umount", "-l", point], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def request(self, method: str, path: str, body: object = None, **query: str) -> httpx.Response:
        """Past the driver, as anybody else would."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.socket))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://docker/v1.41", timeout=patient(60)
        ) as client:
            return await client.request(method, path, json=body, params=query)


def _of(text: str) -> list[int]:
    """Shims with a text in their command line, such as a daemon's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if b"containerd-shim" in words.partition(b"\0")[0] and text.encode() in words:
                found.append(int(path.parent.name))
    return found


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(word) for word in path.read_text().split()]
    return found


def _below(pid: int) -> list[int]:
    """Children of a process that are no containers' shims: those are to outlive it."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            if int(rest.split()[1]) == pid and not name.startswith("containerd-shim"):
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def running() -> Iterator[Dockerd]:
    """A daemon with the runtime images, for as long as the context lasts."""
    with _daemon(kept()) as daemon:
        yield daemon


@contextlib.contextmanager
def _daemon(data: Path) -> Iterator[Dockerd]:
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = Path(tempfile.mkdtemp(prefix="hearth-dockerd-", dir="/run"))
        daemon = None
        try:
            daemon = Dockerd(folder, data)
            _clear(daemon)
            yield daemon
        finally:
            if daemon is not None:
                daemon.close()
            shutil.rmtree(folder, ignore_errors=True)


def _clear(daemon: Dockerd) -> None:
    """Remove containers that an earlier run left when it failed."""
    transport = httpx.HTTPTransport(uds=str(daemon.socket))
    with httpx.Client(transport=transport, base_url="http://docker/v1.41", timeout=patient(60)) as client:
        for found in client.get("/containers/json", params={"all": "1"}).json():
            client.delete(f"/containers/{found['Id']}", params={"force": "1"})


def missing() -> str:
    """What is not here that a daemon needs; empty where all is."""
    lacking = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if not kept().exists():
        lacking.append("the runtime images (python -m tests.dockerd)")
    return ", ".join(lacking)


def kept() -> Path:
    """The data of a daemon that has the runtime images; another one when a Dockerfile changes."""
    texts = "".join(images.dockerfile(language) for language in images.IMAGES)
    return KEPT / f"data-{hashlib.sha256(texts.encode()).hexdigest()[:12]}"


def prepare() -> None:
    """Make the images, once."""
    if kept().exists():
        return
    KEPT.mkdir(exist_ok=True)
    base = KEPT / "base.tar"
    if not base.exists():
        _debootstrap(base)
    part = kept().with_suffix(".part")
    for old in (part, *KEPT.glob("data-*")):
        shutil.rmtree(old, ignore_errors=True)
    with _daemon(part) as daemon:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.socket)), timeout=600) as client:
            repository, _, tag = BASE.partition(":")
            query = {"fromSrc": "-", "repo": repository, "tag": tag}
            made = client.post("http://docker/v1.41/images/create", params=query, content=base.read_bytes())
            made.raise_for_status()
        asyncio.run(_build(daemon))
    part.rename(kept())


async def _build(daemon: Dockerd) -> None:
    engine = Engine(daemon.socket)
    await engine.open()
    try:
        for language, name in images.IMAGES.items():
            print(f"» building {name}", file=sys.stderr)
            async for _ in images.build(engine, language, name, network="host"):
                pass
    finally:
        await engine.close()


def _debootstrap(base: Path) -> None:
    """A small Debian from where this machine's apt has it, as a tar; apt in it fetches as apt here does."""
    release, mirror = archive()
    print(f"» making a Debian {release} (once, some minutes)", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=KEPT) as made:
        root = Path(made) / "root"
        command = [
            "debootstrap",
            "--variant=minbase",
            "--include=ca-certificates",
            release,
            str(root),
            mirror,
        ]
        proxy = next((value for name, value in apt_settings() if name == "Acquire::http::Proxy"), None)
        environment = {**os.environ, **({"http_proxy": proxy} if proxy else {})}
        subprocess.run(command, stdout=subprocess.DEVNULL, env=environment, check=True)
        for folder in ("proc", "sys"):  # debootstrap leaves them mounted now and then
            subprocess.run(["umount", str(root / folder)], stderr=subprocess.DEVNULL, check=False)
        settings = "".join(f'{name} "{value}";\n' for name, value in apt_settings())
        (root / "etc/apt/apt.conf.d/90acquire").write_text(settings)
        (root / "etc/apt/sources.list").write_text(sources())
        for name in ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info"):
            shutil.rmtree(root / name, ignore_errors=True)  # as in the registry's
        for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
            shutil.rmtree(root / name)
            (root / name / "partial").mkdir(parents=True)
        subprocess.run(["tar", "-C", str(root), "-cf", str(base.with_suffix(".part")), "."], check=True)
        base.with_suffix(".part").rename(base)


if __name__ == "__main__":
    prepare()
