"""This machine tried as a keeper would: a driver and networks of its own, for a second, with no platform around them.

`hearth doctor` starts it in a process of its own, because what is tried needs namespaces of its own. As root its networks are
tried in an empty network namespace: nothing of this machine's is touched, and nothing is left even when it is killed.
What it needs beside that (control groups, a block of uids, two folders) it gives back, also when the doctor dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hearth.bootstrap import isolation
from hearth.core.errors import HearthError
from hearth.core.finding import Finding, State, found_by, not_held, refused
from hearth.core.launch import Mount, Probe, Toolchain
from hearth.core.settings import Settings
from hearth.drivers.bubblewrap import cgroup_tree
from hearth.drivers.bubblewrap.leftovers import remove_leftovers
from hearth.drivers.bubblewrap.probe import runs
from hearth.linux.libc import CLONE_NEWNET, unshare
from hearth.protocol.keeper import probe_from_data, probe_to_data
from hearth.supervisor.group import PlatformGroup

NAME = "sandboxes"
_TIMEOUT = 300.0  # seconds; it takes one, and fifty times that on the slowest machine that was seen
_END = 15.0  # seconds to tidy up


def tried(python: Toolchain | None, folder: Path | None) -> tuple[Probe | None, list[Finding]]:
    """Try this machine, as this user; returns what holds, and what else was found on the way.

    Args:
        python: an interpreter, to be run in a sandbox.
        folder: where its working folder is made; None: where temporary files are.

    The probe is None when no sandbox could be made; then a finding says why.
    """
    instance = f"doctor-{secrets.token_hex(4)}"  # no data directory's
    # Made by who is also there to remove it.
    work = (folder or Path(tempfile.gettempdir())) / f"hearth-{instance}"
    group = None
    try:
        if os.geteuid() != 0:
            group = PlatformGroup.own(instance)
        if group is not None:
            # As his supervisor does: his keeper can't name processes outside of its namespace.
            group.enter()
        told = _run({"instance": instance, "work": str(work), "python": python and asdict(python)})
    except subprocess.TimeoutExpired:
        says = f"not tried to the end in {_TIMEOUT:.0f} s: this machine is too busy to tell what it holds"
        return None, [not_held(NAME, says)]
    except (OSError, HearthError) as error:
        found = found_by(error, NAME, State.REFUSED) if isinstance(error, HearthError) else None
        return None, [found or refused(NAME, f"they could not be tried: {error}")]
    finally:
        shutil.rmtree(work, ignore_errors=True)  # it was killed
        if os.geteuid() == 0:
            _tidy(instance)
        if group is not None:
            group.leave()
    findings = [Finding(**{**data, "state": State(data["state"])}) for data in told["findings"]]
    return probe_from_data(told["probe"]) if "probe" in told else None, findings


def docker_tried(settings: Settings) -> tuple[Probe | None, list[Finding]]:
    """Try a Docker daemon's containers; what holds, or why not. Without networks: those are the same as bubblewrap's."""
    instance = f"doctor-{secrets.token_hex(4)}"
    work = Path(tempfile.mkdtemp(prefix=f"hearth-{instance}-"))
    try:
        return asyncio.run(_try_docker(replace(settings, data_dir=work), instance)), []
    except HearthError as error:
        return None, [found_by(error, NAME, State.REFUSED)]
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _try_docker(settings: Settings, instance: str) -> Probe:
    async with AsyncExitStack() as stack:
        driver = await isolation.open_docker(
            stack, settings, instance=instance, folders={}, prefixes=(), networks=None, max_sandboxes=4
        )
        return await driver.probe()


def _run(config: dict[str, Any]) -> dict[str, Any]:
    alive, end = os.pipe2(os.O_CLOEXEC)
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-m", __name__, json.dumps(config), str(alive)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[alive],
            start_new_session=True,  # Ctrl-C is ours to hear: it is to tidy up
            text=True,
            errors="replace",
        )
    except OSError:
        os.close(end)
        raise
    finally:
        os.close(alive)
    with process:
        try:
            said, err = process.communicate(timeout=_TIMEOUT)
        except BaseException:
            os.close(end)
            end = -1
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END)
            process.kill()
            raise
        finally:
            if end >= 0:
                os.close(end)
    lines = said.strip().splitlines()
    if process.returncode or not lines:
        raise OSError((err.strip().splitlines() or [f"exit code {process.returncode}"])[-1])
    told: dict[str, Any] = json.loads(lines[-1])
    return told


def _tidy(instance: str) -> None:
    """Control groups of a trial that could not tidy up itself."""
    with contextlib.suppress(OSError, HearthError):
        groups = cgroup_tree.detect(instance)
        if any(directory.exists() for directory in groups.directories):
            asyncio.run(remove_leftovers(groups))
            groups.close()


async def _try(config: dict[str, Any], alive: int) -> dict[str, Any]:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)

    def orphaned() -> None:
        loop.remove_reader(alive)
        task.cancel()

    loop.add_reader(alive, orphaned)
    work = Path(config["work"])
    python = config["python"]
    mount = Mount(**python["mount"]) if python and python["mount"] else None
    findings: list[Finding] = []
    told: dict[str, Any] = {}
    async with AsyncExitStack() as stack:
        work.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        work.chmod(0o711)  # whatever our umask is: a sandbox's uid must get through
        try:
            networks = await isolation.open_networks(config["instance"], stack, work / "networks.lock")
            driver = await isolation.open_bubblewrap(
                stack,
                instance=config["instance"],
                run=work / "run",
                data=work,
                folders={},
                prefixes=(mount.name,) if mount is not None else (),
                networks=networks,
                max_sandboxes=4,
            )
            told["probe"] = probe_to_data(await driver.probe())
            if python:
                findings.append(await runs(driver, python["bin"], mount))
        except HearthError as error:
            findings.append(found_by(error, NAME, State.REFUSED))
    return {**told, "findings": [asdict(finding) for finding in findings]}


def main() -> None:
    config, alive = json.loads(sys.argv[-2]), int(sys.argv[-1])
    try:
        isolation.enter(own=True)
        if os.geteuid() == 0:
            unshare(CLONE_NEWNET)
    except OSError as error:
        told = {"findings": [asdict(refused(NAME, f"namespaces can't be made: {error}"))]}
    else:
        told = asyncio.run(_try(config, alive))
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
