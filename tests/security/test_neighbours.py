"""Two functions on one machine: what one finds of the other, and whether they can meet.

Both run what a request's body says; both came the whole way, slot, attach, load, request.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hearth.core.launch import Limits
from tests.contract.driver_cases import Rig
from tests.security.conftest import RigOf
from tests.security.functions import Language, Running, become_hostile, opened
from tests.security.jail import drop_options

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]
KINDS = ["python", "go", "node", pytest.param("node-wheel", marks=pytest.mark.network)]
KEEPERS_SECRET = "keepers-own-secret"
REFUSED = {"EROFS", "EPERM", "EACCES", "EBUSY", "EINVAL", "ENOENT", "ENOSYS"}


EVERYTHING = """
import os
names, texts, refused = [], [], []
for folder, folders, files in os.walk("/"):
    folders[:] = [f for f in folders if os.path.join(folder, f) not in ("/proc", "/usr", "/dev", "/etc/ssl")]
    for name in folders + files:
        path = os.path.join(folder, name)
        names.append(path)
        if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 1 << 20:
            try: texts.append(open(path, "rb").read().decode("latin-1"))
            except OSError: refused.append(path)
for name in ("mountinfo", "mounts", "mountstats", "maps", "environ", "cmdline", "cgroup"):
    texts.append(open("/proc/self/" + name).read())
result = "\\n".join(names + texts)
"""


async def test_another_function_is_not_to_be_seen(home: Rig, python: Language, evil: Running) -> None:
    async with opened(home, python) as waiting, opened(home, python) as other:
        name = await other.attach(Limits(), given=(("KEY", b"the-others-secret"),))
        await other.load(env=(("TOKEN", "the-others-token"),))
        await other.run("open('/tmp/mine', 'w').write('the-others-file')")
        assert "the-others-secret" in await other.run(EVERYTHING)  # it would be found
        seen = await evil.run(EVERYTHING)
        slot_paths = [home.inner._table.find(one.handle)._slot.path for one in (waiting, other)]
        for word in ("the-others-secret", "the-others-token", "the-others-file", name, *map(str, slot_paths)):
            assert word not in seen, word


async def test_slots_and_folders_of_the_host_are_not_there_by_name(
    home: Rig, python: Language, evil: Running
) -> None:
    async with opened(home, python) as waiting, opened(home, python) as other:
        name = await other.attach(Limits())
        places = [
            home.inner._table.find(waiting.handle)._slot.path,
            home.inner._table.find(waiting.handle)._slot.path / "guest.sock",
            home.inner._table.find(other.handle)._slot.path / "code",
            home.folders["artifact"],
            home.folders["artifact"] / name,
            home.inner._run,
            home.inner._data,
            "/run/hearth-uids",
            "/sys/fs/cgroup",
            f"/proc/{os.getpid()}",
        ]
        assert all(Path(place).exists() for place in places if "guest.sock" not in str(place))
        seen = await evil.run(
            f"import os\nresult = [p for p in {[str(place) for place in places]!r} if os.path.lexists(p)]"
        )
        assert seen == []
        up = await evil.run(
            "import os\nresult = [sorted(os.listdir(p)) for p in ('/hearth/..', '/hearth/code/../..', '/proc/1/root', '/proc/self/cwd/..')"
            " if os.access(p, os.R_OK)]"
        )
        assert len(up) == 4
        assert not {"root", "home", "work", "slots", "control"} & {name for names in up for name in names}, up


SHARED = """
import os, socket, ctypes
libc = ctypes.CDLL(None, use_errno=True)
"""
LEAVE = (
    SHARED
    + """
import builtins
s = socket.socket(socket.AF_UNIX); s.bind("\\0meeting"); s.listen(); t = socket.socket(); t.bind(("127.0.0.1", 4711)); t.listen()
builtins.kept = [s, t]
shm = libc.shmget(4711, 4096, 0o1666); msg = libc.msgget(4711, 0o1666)
open("/dev/shm/meeting", "w").write("x"); open("/tmp/meeting", "w").write("x")
result = [shm >= 0, msg >= 0]
"""
)
FIND = (
    SHARED
    + """
def reached(f):
    try: f()
    except OSError: return False
    return True
result = [reached(lambda: socket.socket(socket.AF_UNIX).connect("\\0meeting")),
          reached(lambda: socket.create_connection(("127.0.0.1", 4711), 1)),
          libc.shmget(4711, 4096, 0) >= 0, libc.msgget(4711, 0) >= 0,
          os.path.exists("/dev/shm/meeting"), os.path.exists("/tmp/meeting")]
"""
)
# The host's own System V memory and queue, made by the negative control, are taken away again.
FORGET = """
import ctypes
libc = ctypes.CDLL(None)
for get, control in ((libc.shmget(4711, 4096, 0), libc.shmctl), (libc.msgget(4711, 0), libc.msgctl)):
    if get >= 0: control(get, 0, None)
"""


@pytest.mark.parametrize("networks", [False, True], ids=["none", "internet"])
async def test_two_functions_have_no_place_to_meet(python: Language, rig_of: RigOf, networks: bool) -> None:
    rig = await rig_of(python, networks)
    async with opened(rig, python, networked=networks) as one, opened(rig, python, networked=networks) as two:
        for slot in (one, two):
            await become_hostile(slot)
        assert one.uid != two.uid
        assert await one.run(LEAVE) == [True, True]
        assert await one.run(FIND) == [True] * 6  # within one sandbox all of it works
        assert await two.run(FIND) == [False] * 6


@pytest.mark.parametrize(
    ("dropped", "shared"), [("--unshare-ipc", [2, 3]), ("--unshare-net", [0, 1])], ids=["ipc", "net"]
)
async def test_they_meet_in_a_namespace_that_is_not_their_own(
    home: Rig, python: Language, monkeypatch: pytest.MonkeyPatch, dropped: str, shared: list[int]
) -> None:
    """Negative control."""
    drop_options(monkeypatch, dropped)
    async with opened(home, python) as one, opened(home, python) as two:
        for slot in (one, two):
            await become_hostile(slot)
        await one.run(LEAVE)
        found = await two.run(FIND)
        await one.run(FORGET)  # only its owner may
        assert [number for number, reached in enumerate(found) if reached] == shared
