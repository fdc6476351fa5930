"""What is seen from outside of every runtime's real slots: while they wait, once code is attached, while a function works."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from hearth.core.launch import Disk, Limits, Network
from hearth.drivers.bubblewrap.sandbox import Sandbox
from hearth.drivers.common import program
from tests.contract.driver_cases import read_until
from tests.security.conftest import Languages, RigOf
from tests.security.functions import opened
from tests.security.jail import drop_options
from tests.security.outside import asked, held, look, pids_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]  # a first run compiles Go's standard library
KINDS = ["python", "go", "node", pytest.param("node-wheel", marks=pytest.mark.network)]
MIB = 1 << 20
WAITING = Limits(memory=192 * MIB, cpu=1.0, pids=100, tmp=8 * MIB)
SMALLER = Limits(memory=160 * MIB, cpu=0.75, pids=64, tmp=4 * MIB)
LARGER = Limits(memory=384 * MIB, cpu=1.5, pids=200, tmp=32 * MIB)
BUILDS = Limits(memory=384 * MIB, cpu=2.0, pids=300, tmp=32 * MIB, open_files=700)
ECHO = {"python": "result = 'here'", "node": "return 'here'", "go": {}}


@pytest.mark.parametrize("networks", [False, True], ids=["none", "internet"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_slot_from_its_start_to_a_request(
    languages: Languages, rig_of: RigOf, kind: str, networks: bool
) -> None:
    language = await asyncio.to_thread(languages, kind)
    rig = await rig_of(language, networks)
    async with opened(rig, language, networked=networks, limits=WAITING) as slot:
        _, running = pids_of(rig, slot.handle)
        assert await look(rig, slot.handle) == set()
        assert held(running) == asked(WAITING)
        limits = LARGER if networks else SMALLER
        await slot.attach(limits, Network("internet" if networks else "none"))
        assert await look(rig, slot.handle) == set()
        assert held(running) == asked(limits)
        await slot.load()
        assert await look(rig, slot.handle) == set()
        answer = await slot.run(ECHO[language.runtime.name])
        assert answer == "here" or answer["pid"] == 2
        assert await look(rig, slot.handle) == set()
        assert pids_of(rig, slot.handle)[1] == running  # a Go slot became the function; it started nothing
        assert held(running) == asked(limits)
        exe = Path(os.readlink(f"/proc/{running}/exe")).name
        assert (
            exe
            == {"python": Path(language.toolchain.bin).name, "node": "node", "go": "function"}[
                language.runtime.name
            ]
        )


BUILD = "print('up', flush=True); import signal; signal.pause()"


@pytest.mark.parametrize("networks", [False, True], ids=["none", "internet"])
@pytest.mark.parametrize("disk", [None, Disk("ns_x", 24 * MIB, "/work")], ids=["plain", "disk"])
async def test_a_build(languages: Languages, rig_of: RigOf, disk: Disk | None, networks: bool) -> None:
    rig = await rig_of(languages("python"), networks)
    network = Network("internet" if networks else "none")
    handle = await rig.start(BUILD, guest=False, disk=disk, limits=BUILDS, network=network)
    out, err = rig.driver.output(handle)
    await read_until(out, b"up\n")
    assert await look(rig, handle) == set()
    assert held(pids_of(rig, handle)[1]) == asked(BUILDS)
    os.close(out)
    os.close(err)
    await rig.driver.stop(handle, 0)


@pytest.mark.parametrize(
    ("dropped", "shows"),
    [
        ("--add-seccomp-fd", {"Seccomp", "Seccomp_filters"}),
        ("--unshare-net", {"ns net"}),
        ("--new-session", {"session"}),
    ],
)
async def test_what_is_left_out_shows_on_a_loaded_function(
    languages: Languages, rig_of: RigOf, monkeypatch: pytest.MonkeyPatch, dropped: str, shows: set[str]
) -> None:
    """Negative control of the looks above."""
    monkeypatch.setattr(program, "check_confined", lambda *_: None)
    drop_options(monkeypatch, dropped)
    language = languages("python")
    rig = await rig_of(language)
    async with opened(rig, language) as slot:
        await slot.become()
        assert await slot.run("result = 1") == 1
        assert await look(rig, slot.handle) == shows


async def test_limits_that_attach_does_not_set_show(
    languages: Languages, rig_of: RigOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of `held`: without the driver's work at attach, the slot's own limits are seen."""
    language = languages("python")
    rig = await rig_of(language)
    async with opened(rig, language, limits=WAITING) as slot:
        monkeypatch.setattr(Sandbox, "_set_limits", lambda self, group, limits: None)
        await slot.become(LARGER)
        assert held(pids_of(rig, slot.handle)[1]) == asked(WAITING)
