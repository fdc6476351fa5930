"""What the unit of deploy/systemd does to a platform, as far as it can be had without systemd: the capabilities that it takes away, the
folders that it makes read-only, and whom it has told when it is ready. On a machine with systemd it is tried by hand (verified-machines.md)."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.e2e.platform import Platform, until
from tests.units import SYSTEM, dropped_capabilities, unit

pytestmark = pytest.mark.root

READ_ONLY = {"full": "/usr /boot /etc"}  # systemd.exec(5), ProtectSystem=


@pytest.fixture
def as_service(own_platform: Platform) -> Platform:
    folders = READ_ONLY[unit(SYSTEM)["ProtectSystem"][0]]
    guard = f'for d in {folders}; do mount --bind "$d" "$d" && mount -o remount,bind,ro "$d"; done; exec "$@"'
    own_platform.starter = (
        "unshare",
        "--mount",
        "--propagation=slave",
        "sh",
        "-ec",
        guard,
        "sh",
        "setpriv",
        "--bounding-set=" + ",".join(f"-{name}" for name in dropped_capabilities()),
        "--",
    )
    return own_platform


def test_it_serves_without_what_the_unit_takes_away(
    as_service: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform = as_service
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        platform.start()
        assert until(lambda: heard(manager)) == b"READY=1"
    assert not [line for line in platform.output if "Warning" in line], platform.output
    assert platform.process is not None
    status = Path(f"/proc/{platform.process.pid}/status").read_text()
    assert int(status.partition("CapBnd:\t")[2].split()[0], 16) & (1 << 16) == 0  # CAP_SYS_MODULE
    with pytest.raises(OSError, match="Read-only"):
        Path(f"/proc/{platform.process.pid}/root/etc/hearth-test").touch()

    platform.register()
    code = "def handler(event, context):\n    return 'up'\n"
    platform.deploy("hello", "python", {"handler.py": code, "requirements.txt": "\n"})
    assert platform.call("/fn/ann/hello").body == b"up"
    platform.process.send_signal(signal.SIGHUP)
    until(lambda: "replaced" in platform.log())
    assert platform.call("/fn/ann/hello").body == b"up"
    assert platform.stop() == 0


def heard(manager: socket.socket) -> bytes:
    try:
        return manager.recv(100)
    except BlockingIOError:
        return b""
