"""The page on backup and restore: its commands as they stand, on a real platform, and what it says of keys that don't fit."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.platform import HEARTH, PASSWORD, Platform, leftovers

pytestmark = pytest.mark.root
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "backup-and-restore.md"
BACK_UP, RESTORE, BESIDE, LOST = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)

PAY = {
    "handler.py": "import os\n\ndef handler(event, context):\n    return os.environ['STRIPE_KEY'] + open('/run/secrets/STRIPE_KEY').read()\n"
}


def shell(script: str, home: Path, **paths: Path) -> str:
    """Run a block of the page, with folders of the test's own in the place of the page's."""
    for name, path in paths.items():
        script = script.replace({"data": "/var/lib/hearth", "other": "/srv/hearth"}[name], str(path))
    done = subprocess.run(
        ["bash", "-euc", script], cwd=home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


def refused(platform: Platform) -> str:
    """What `hearth up` says when it does not start."""
    done = subprocess.run(
        [HEARTH, "up", "--port", "0", "--data-dir", str(platform.data)],
        capture_output=True,
        text=True,
        env=platform.environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, (done.stdout, done.stderr)
    return done.stderr


@pytest.fixture
def restored(own_platform: Platform) -> Iterator[Platform]:
    """A place beside the platform's, for the copy."""
    home = own_platform.home / "elsewhere"
    home.mkdir()
    copy = Platform(home)
    try:
        yield copy
        if copy.process is not None and copy.process.poll() is None:
            copy.stop()
        assert leftovers(copy.instance, copy.data) == []
    finally:
        copy.put_down()


def commands(script: str) -> str:
    """Without the start of the platform, which the test does itself."""
    return "".join(line for line in script.splitlines(True) if not line.startswith("hearth up"))


def test_backup_and_restore(own_platform: Platform, restored: Platform) -> None:
    first = own_platform.start()
    first.register()
    first.cli("secrets", "set", "STRIPE_KEY", stdin="sk_live_1")
    first.deploy("pay", "python", PAY, secrets=["STRIPE_KEY"])
    first.deploy("mine", "python", {"handler.py": "def handler(e, c):\n    return 'hers'\n"}, auth="members")
    key = first.cli("keys", "create", "--name", "k", "--function", "mine", "--secret-only").strip()
    assert first.call("/fn/ann/pay").body == b"sk_live_1sk_live_1"
    assert first.stop(signal.SIGTERM) == 0
    shell(BACK_UP, first.home, data=first.data)
    assert "./key" not in subprocess.check_output(["tar", "tzf", first.home / "hearth.tar.gz"], text=True)
    assert first.home.joinpath("hearth.key").stat().st_mode & 0o077 == 0

    shell(commands(RESTORE), first.home, other=restored.data)
    restored.start()
    assert restored.call("/fn/ann/pay").body == b"sk_live_1sk_live_1"
    assert restored.call("/fn/ann/mine", X_Hearth_Key=key).body == b"hers"
    assert restored.call("/fn/ann/mine").status == 404
    restored.cli(
        "login", "--server", restored.url, "--email", "ann@example.com", "--password-stdin", stdin=PASSWORD
    )
    assert "building" in restored.cli("logs", "pay")
    restored.deploy(
        "pay", "python", PAY, secrets=["STRIPE_KEY"]
    )  # what was left out of the copy is made anew
    restored.cli("secrets", "set", "STRIPE_KEY", stdin="sk_live_2")

    # The one that it was copied from has the same instance id, and is not harmed by trying.
    said = refused(first)
    assert f"is a copy of {restored.data}, which a hearth runs on" in said
    assert restored.call("/fn/ann/pay").status == 200
    shell(commands(BESIDE), first.home, other=first.data)
    first.start()
    assert first.instance != restored.instance
    assert first.call("/fn/ann/pay").body == b"sk_live_1sk_live_1"
    assert restored.call("/fn/ann/pay").status == 200


def test_keys_that_do_not_fit(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.register()
    platform.cli("secrets", "set", "STRIPE_KEY", stdin="sk_live_1")
    platform.deploy("pay", "python", PAY, secrets=["STRIPE_KEY"])
    platform.stop()
    port = int(platform.url.rpartition(":")[2])
    key, right = platform.data / "key", (platform.data / "key").read_bytes()

    key.unlink()
    assert f"the root key {key} is missing" in refused(platform)
    assert not key.exists()
    key.write_bytes(right[::-1])
    key.chmod(0o600)
    assert "the root key is not the one that this database was made with" in refused(platform)
    key.write_bytes(right)
    key.chmod(0o640)
    assert f"chmod 600 {key}" in refused(platform)
    key.chmod(0o600)
    platform.start(port)
    assert platform.call("/fn/ann/pay").body == b"sk_live_1sk_live_1"
    platform.stop()

    key.unlink()
    assert "['STRIPE_KEY']" in shell(LOST, platform.home, data=platform.data)
    platform.start(port)
    assert platform.call("/fn/ann/pay").status == 502
    assert "ann@example.com" in platform.cli("whoami")
    platform.cli("secrets", "set", "STRIPE_KEY", stdin="sk_live_3")
    assert platform.call("/fn/ann/pay").body == b"sk_live_3sk_live_3"


def test_a_key_alone_begins_an_empty_platform(own_platform: Platform) -> None:
    platform = own_platform.start()
    platform.stop()
    shutil.move(platform.data / "key", platform.home / "key")
    shutil.rmtree(platform.data)
    platform.data.mkdir(mode=0o700)
    shutil.move(platform.home / "key", platform.data / "key")
    platform.start()
    platform.register()
