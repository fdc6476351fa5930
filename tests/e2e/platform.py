"""A real platform for tests: `hearth up` as a subprocess on a data directory of its own, spoken to by the real command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from hearth.egress import claim
from tests.patience import patient
from tests.stack import stack

HEARTH = str(Path(sys.executable).parent / "hearth")
PASSWORD = "correct horse battery staple"


@dataclass
class Answer:
    status: int
    headers: Message  # looked up in any case
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Platform:
    """Args:
    home: a folder of the test's own; data directory and token file are below it.
    flags: more flags of `hearth up`.
    starter: what its command is put after.
    variables: more of its environment, and of the commands'.
    """

    home: Path
    flags: tuple[str, ...] = ()
    starter: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    url: str = ""
    output: list[str] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def instance(self) -> str:
        return (self.data / "instance").read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HEARTH_")}
        own = {"XDG_CONFIG_HOME": str(self.home / "config"), "NO_COLOR": "1"}
        return {**kept, **stack.variables(str(self.home)), **own, **self.variables}

    def start(self, port: int = 0) -> Platform:
        """Start it and wait until it says that it is ready."""
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()
        with (self.home / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*self.starter, HEARTH, *self._up(port)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self.environment,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip())
            if " URL " in line:
                self.url = line.split()[-1]
            if line.strip() == "Ready.":
                return self
        raise AssertionError(f"the platform did not start: {self.output} {self.log()}")

    def _up(self, port: int) -> list[str]:
        more = stack.more_flags(self.flags)
        return ["up", "--port", str(port), "--data-dir", str(self.data), *more, *self.flags]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the supervisor and wait for its end; returns its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(patient(60))
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def put_down(self) -> None:
        """At a test's end, whatever happened: no process and no pipe of ours is left."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(patient(60))
        if self.process.stdout is not None:
            self.process.stdout.close()

    def log(self) -> str:
        return (self.home / "log").read_text()

    def cli(self, *args: str, code: int = 0, stdin: str | None = None, cwd: Path | None = None) -> str:
        """Run `hearth ARGS`; returns stdout (stderr where it is to fail)."""
        result = subprocess.run(
            [HEARTH, *args],
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=cwd or self.home,
            timeout=patient(300),
            check=False,
        )
        assert result.returncode == code, (args, result.returncode, result.stdout, result.stderr)
        return result.stdout if code == 0 else result.stderr

    def register(self, email: str = "ann@example.com") -> None:
        self.cli(
            "register", "--server", self.url, "--email", email, "--password-stdin", stdin=PASSWORD + "\n"
        )

    def function(self, name: str, runtime: str, files: dict[str, str], **settings: Any) -> Path:
        """Write a function's folder; `settings` go into its function.yaml."""
        folder = self.home / name
        folder.mkdir(exist_ok=True)
        lines = [
            f"name: {name}",
            f"runtime: {runtime}",
            *(f"{key}: {json.dumps(value)}" for key, value in settings.items()),
        ]
        (folder / "function.yaml").write_text("\n".join(lines) + "\n")
        for path, text in files.items():
            (folder / path).write_text(text)
        return folder

    def deploy(self, name: str, runtime: str, files: dict[str, str], **settings: Any) -> None:
        settings.setdefault("auth", "public")
        self.cli("deploy", str(self.function(name, runtime, files, **settings)))

    def call(
        self,
        path: str,
        data: bytes | None = None,
        method: str | None = None,
        timeout: float = 60,
        **headers: str,
    ) -> Answer:
        """One HTTP request to the platform, whatever its status."""
        request = urllib.request.Request(
            self.url + path,
            data=data,
            method=method,
            headers={k.replace("_", "-"): v for k, v in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=patient(timeout)) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read())

    def pids(self, kind: str) -> list[int]:
        """Processes of this platform by kind: ``keeper``, ``control``, ``shard``, ``resolver``."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    group = (entry / "cgroup").read_text()
                except OSError:
                    continue
                if (
                    f"hearth.bootstrap.{kind}".encode() in words
                    and f"hearth-platform-{self.instance}" in group
                ):
                    found.append(int(entry.name))
        return found

    def kill(self, kind: str) -> None:
        for pid in self.pids(kind):
            os.kill(pid, signal.SIGKILL)


def members(instance: str) -> set[int]:
    """Every process in any control group of this platform."""
    found: set[int] = set()
    for group in groups(instance):
        try:
            found.update(int(pid) for pid in (group / "cgroup.procs").read_text().split())
        except OSError:
            continue
    return found


def groups(instance: str) -> list[Path]:
    """Every control group of this platform, in all trees of cgroup v1 and v2; on v2 they may stand below a unit's group."""
    names = (f"hearth-platform-{instance}", f"hearth-{instance}")
    found = []
    for folder, _, _ in os.walk("/sys/fs/cgroup"):  # what vanishes meanwhile is passed over
        path = Path(folder)
        if path.name in names or path.parent.name in names:
            found.append(path)
    return found


def leftovers(instance: str, data: Path | None = None) -> list[str]:
    """What a platform that has ended should not leave: processes, groups, mounts, links, addresses, tables, sockets, disks.

    `data`: its data directory, by which its disks are known.
    """
    found = [f"process {pid}" for pid in members(instance)]
    found += [f"cgroup {path}" for path in groups(instance)]
    for mounts in (Path("/proc/self/mountinfo"), Path("/proc/1/mountinfo")):
        found += [f"mount {line}" for line in mounts.read_text().splitlines() if f"hearth-{instance}" in line]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=False).stdout
    found += [f"table {line}" for line in tables.splitlines() if instance in line]
    links = claim.prefix(instance)
    found += [f"link {path.name}" for path in Path("/sys/class/net").iterdir() if path.name.startswith(links)]
    lo = subprocess.run(
        ["ip", "addr", "show", "dev", "lo"], capture_output=True, text=True, check=False
    ).stdout
    found += [f"address {line.strip()}" for line in lo.splitlines() if line.endswith(f"lo:{links}")]
    if Path(f"/run/hearth-{instance}").exists():
        found.append(f"folder /run/hearth-{instance}")
    found += [f"disk {path}" for path in (loops(data) if data is not None else [])]
    return found


def loops(data: Path) -> list[str]:
    """Loop devices on images of a data directory, also on removed ones."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            if backing.read_text().startswith(f"{data}/"):
                found.append(backing.parents[1].name)
        except OSError:
            continue  # let go of this moment
    return found


def until(condition: Any, seconds: float = 20.0, what: str = "it never came true") -> Any:
    """Ask again until it is true; for states of other processes that tell nobody. `seconds` are a plain machine's."""
    deadline = time.monotonic() + patient(seconds)
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
