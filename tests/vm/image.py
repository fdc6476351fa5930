"""A fresh Debian with systemd, as an image for QEMU: made once and kept, for every run begins on an overlay of its own.

It has what any small Debian server has, and nothing of Hearth's. Where packages come from is what apt on this machine says.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Raise it when what is below changes what is in the image.
REVISION = "1"
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "dbus-user-session",
    "libpam-systemd",
    "udev",
    "linux-image-cloud-amd64",
    "iproute2",
    "procps",
    "ca-certificates",
)
USER = "someone"
_DISK = "16G"
_STEP_UNIT = """[Unit]
Description=One step of Hearth's tests
After=multi-user.target network-online.target
Wants=network-online.target

[Service]
Type=oneshot
ExecStart=/usr/local/sbin/hearth-step
"""
# The step is on the second disk, as a tar; what it says leaves by the second serial port, for a login prompt is on the first.
_STEP = """#!/bin/bash
exec >/dev/ttyS1 2>&1
stty raw -echo </dev/ttyS1
mkdir -p /run/step && cd /run/step && tar xf /dev/vdb && bash ./boot
sync
systemctl poweroff --force
"""
_NETWORK = "[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n"


@dataclass(frozen=True)
class Image:
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.ext4"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def done(self) -> Path:
        return self.folder / f"done-{REVISION}"


def image(folder: Path) -> Image:
    """The image, made if it is not there yet.

    Raises:
        subprocess.CalledProcessError: a program that makes it failed; its output is on stderr.
    """
    made = Image(folder)
    if not made.done.exists():
        build(made)
    return made


def build(made: Image) -> None:
    if os.geteuid() != 0:
        raise SystemExit(
            "error: only root can make the image (debootstrap); a run on one that is there needs no root"
        )
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    made.folder.mkdir(mode=0o700)  # passwords of a mirror may be in it
    root = made.folder / "root"
    release, mirror = archive()
    log = made.folder / "debootstrap.log"
    print(f"» making a Debian {release} from {mirror} (once, some minutes; {log})", flush=True)
    packages = ",".join(PACKAGES)
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(root), mirror]
    proxy = next((value for name, value in apt_settings() if name == "Acquire::http::Proxy"), None)
    environment = {**os.environ, **({"http_proxy": proxy} if proxy else {})}
    with log.open("w") as out:
        subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, env=environment, check=True)
    for folder in ("proc", "sys"):  # debootstrap leaves them mounted now and then
        subprocess.run(["umount", str(root / folder)], stderr=subprocess.DEVNULL, check=False)
    furnish(root, release)
    boot = root / "boot"
    shutil.copy(next(boot.glob("vmlinuz-*")), made.kernel)
    shutil.copy(next(boot.glob("initrd.img-*")), made.initrd)
    with made.disk.open("wb") as disk:
        disk.truncate(_bytes(_DISK))
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(root), str(made.disk)], check=True)
    shutil.rmtree(root)
    made.done.touch()


def furnish(root: Path, release: str) -> None:
    """What debootstrap leaves out: a network, an ordinary user, the unit that runs a step, this machine's sources and authorities."""
    etc = root / "etc"
    settings = "".join(f'{name} "{value}";\n' for name, value in apt_settings())
    (etc / "apt/apt.conf.d/90acquire").write_text(settings)
    for path in [Path("/etc/apt/auth.conf"), *Path("/etc/apt/auth.conf.d").glob("*.conf")]:
        if path.exists():
            target = root / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (etc / "apt/sources.list").write_text(sources())
    (etc / "hostname").write_text("fresh\n")
    (etc / "hosts").write_text("127.0.0.1 localhost fresh\n::1 localhost\n")
    resolv = etc / "resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.write_text("nameserver 10.0.2.3\n")  # QEMU's, which asks this machine's
    (etc / "systemd/network/ether.network").write_text(_NETWORK)
    authorities = Path("/etc/ssl/certs/ca-certificates.crt")
    if authorities.exists():  # a mirror inside a company may have one of its own
        shutil.copy(authorities, etc / "ssl/certs/ca-certificates.crt")
    step = root / "usr/local/sbin/hearth-step"
    step.write_text(_STEP)
    step.chmod(0o755)
    (etc / "systemd/system/hearth-step.service").write_text(_STEP_UNIT)
    for command in (
        ["useradd", "-m", "-s", "/bin/bash", USER],
        ["systemctl", "enable", "--quiet", "systemd-networkd", "systemd-networkd-wait-online"],
        ["systemctl", "add-wants", "--quiet", "multi-user.target", "hearth-step.service"],
        ["systemctl", "disable", "--quiet", "apt-daily.timer", "apt-daily-upgrade.timer"],
    ):
        subprocess.run(["chroot", str(root), *command], check=True, stdout=sys.stderr)


def apt_settings() -> list[tuple[str, str]]:
    """How apt on this machine fetches: proxies, certificates, retries. Hooks of other programs are left where they are."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r'^(Acquire::(?:https?|Retries|ForceIPv\d)\b[\w:.-]*) "(.*)";$', dumped, re.MULTILINE)
    return [(name, value) for name, value in found if value]


def targets() -> list[tuple[str, str, str]]:
    """Debian's archives as apt on this machine knows them: (release, address, component)."""
    found = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(RELEASE) $(REPO_URI) $(COMPONENT)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = dict.fromkeys(line.strip() for line in found.stdout.splitlines())
    rows = [tuple(line.split()) for line in lines]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3 and row[2] == "main"]


def archive() -> tuple[str, str]:
    """Debian's stable archive as this machine uses it, else the public one: (release, address)."""
    for release, address, _ in targets():
        if release in ("bookworm", "trixie"):
            return release, address
    return "bookworm", "http://deb.debian.org/debian"


def sources() -> str:
    release, mirror = archive()
    rows = [row for row in targets() if row[0].partition("-")[0] == release]
    rows = rows or [(release, mirror, "main")]
    return "".join(f"deb {address} {name} {component}\n" for name, address, component in rows)


def _bytes(size: str) -> int:
    return int(size[:-1]) << 30
