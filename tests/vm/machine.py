"""The fresh Debian as a running machine: one boot for each step, all on the same disk."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.image import Image

ROOT = Path(__file__).resolve().parents[2]
# Where packages come from on this machine; credentials in them stay in the image's overlay, which only this user can read.
_REGISTRIES = ("PIP_", "UV_", "npm_config_", "NPM_CONFIG_", "SSL_CERT_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")  # fmt: skip
_REGISTRY_NAMES = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GONOPROXY", "GOINSECURE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")  # fmt: skip
_CONFIGURATION = (".npmrc", ".config/pip/pip.conf", ".pip/pip.conf")
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_CUT = 124
_NO_END = 125
_OFF = 120.0  # seconds to switch itself off, once a step has ended


@dataclass(frozen=True)
class Order:
    """What one boot does.

    Args:
        name: a word, for files and for people.
        script: run by bash as root inside, in a folder with the tree (tree.tar), the registries' settings (registries.env) and
            this machine's files of them (home.tar).
        limit: seconds from the start of QEMU.
    """

    name: str
    script: str
    limit: float


@dataclass(frozen=True)
class Machine:
    """Args:
    folder: its overlay, each step's output, and while it runs QEMU's monitor, by which it can be halted with its clocks
        (``stop``, ``cont``).
    accel: what QEMU calls its accelerator, such as ``tcg`` (software, works everywhere) or ``kvm``.
    memory: MiB.
    """

    image: Image
    folder: Path
    accel: str = "tcg"
    memory: int = 4096
    processors: int = 2

    @property
    def overlay(self) -> Path:
        return self.folder / "disk.qcow2"

    def renew(self) -> None:
        """A fresh machine: nothing of an earlier run is on its disk."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.overlay.unlink(missing_ok=True)
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.image.disk), str(self.overlay)],
            check=True,
        )  # fmt: skip

    def run(self, order: Order) -> int:
        """Boot, run it, switch off; what it says is printed as it says it and kept in the folder.

        Returns its exit code; 124 if it was cut off at its limit, 125 if the machine ended without telling one.
        """
        token = secrets.token_hex(8)
        disk, said, console = (self.folder / f"{order.name}.{kind}" for kind in ("tar", "log", "console"))
        pack(disk, order.script, token)
        said.write_bytes(b"")
        deadline = time.monotonic() + order.limit
        process = subprocess.Popen(self._command(disk, said, console), stdin=subprocess.DEVNULL)
        code: int | None = None
        rest = b""
        try:
            with said.open("rb") as output:
                while True:
                    over = process.poll() is not None or time.monotonic() > deadline
                    *lines, rest = (rest + output.read()).split(b"\n")
                    for line in lines:
                        if line.startswith(f"end {token} ".encode()):
                            code = int(line.split()[2])
                            deadline = min(deadline, time.monotonic() + _OFF)
                        else:
                            sys.stdout.buffer.write(line + b"\n")
                    sys.stdout.buffer.flush()
                    if over:
                        sys.stdout.buffer.write(rest)
                        return (_NO_END if process.poll() is not None else _CUT) if code is None else code
                    time.sleep(0.5)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            disk.unlink()

    def _command(self, disk: Path, said: Path, console: Path) -> list[str]:
        accel = "tcg,thread=multi,tb-size=1024" if self.accel == "tcg" else self.accel
        return [
            "qemu-system-x86_64",
            "-accel", accel,
            "-cpu", "max" if self.accel == "tcg" else "host",
            "-m", str(self.memory),
            "-smp", str(self.processors),
            "-display", "none",
            "-no-reboot",
            "-serial", f"file:{console}",
            "-serial", f"file:{said}",
            "-kernel", str(self.image.kernel),
            "-initrd", str(self.image.initrd),
            "-drive", f"file={self.overlay},if=virtio,format=qcow2,cache=unsafe",
            "-drive", f"file={disk},if=virtio,format=raw,readonly=on",
            "-nic", "user,model=virtio-net-pci",
            "-monitor", f"unix:{self.folder}/monitor,server=on,wait=off",
            "-append", "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0",
        ]  # fmt: skip


def pack(disk: Path, script: str, token: str) -> None:
    """The second disk: what the step's unit unpacks and runs."""
    boot = f'bash ./script </dev/null\ncode=$?\nprintf "\\nend {token} %s\\n" "$code"\n'
    with tarfile.open(disk, "w") as tar:
        for name, text in (("boot", boot), ("script", script), ("registries.env", registries())):
            add(tar, name, text.encode())
        add(tar, "tree.tar", tree())
        add(tar, "home.tar", home())
    disk.chmod(0o600)
    with disk.open("ab") as whole:  # a disk is whole sectors
        whole.truncate(-(-disk.stat().st_size // 4096) * 4096)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def tree() -> bytes:
    """This clone with its uncommitted changes, without what git ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).exists():
                tar.add(ROOT / name, name, recursive=False, filter=_plain)
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def registries() -> str:
    """Lines of shell that set what this environment says of packages' registries and proxies."""
    from shlex import quote

    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_REGISTRIES) or name.upper() in (*_REGISTRIES, *_REGISTRY_NAMES)
    }
    paths = {name for name, value in kept.items() if value.startswith("/") and value != _AUTHORITIES}
    return "".join(f"export {name}={quote(value)}\n" for name, value in kept.items() if name not in paths)


def home() -> bytes:
    """This user's files that say where packages come from."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in _CONFIGURATION:
            if (Path.home() / name).is_file():
                tar.add(Path.home() / name, name, filter=_plain)
    return buffer.getvalue()
