"""What every driver promises (`ports.driver`), on every driver that `driver_cases` knows."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hearth.core.errors import Forbidden, HearthError, NotFound, SandboxFailed
from hearth.core.launch import CALLS_PORT, Disk, Exit, Handle, Limits, Mount, Network
from hearth.drivers.remote import RemoteDriver
from hearth.ports.driver import CanAttach
from tests.contract.driver_cases import CASES, Case, Rig, fresh, read_some, read_until, soon
from tests.patience import patient

GUEST = """
s = dial()
s.sendall(b"hello\\n")
while True:
    line = s.recv(1000)
    if not line: sys.exit(0)
    if line == b"code\\n":
        try: answer = open(SLOT + "/code/main.txt").read()
        except OSError as e: answer = "none"
        s.sendall(answer.encode() + b"\\n")
    elif line == b"secret\\n":
        s.sendall(open(SLOT + "/secrets/TOKEN").read().encode() + b"\\n")
    else: s.sendall(line)
"""


@pytest.fixture(
    params=[
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.docker] if case.docker else [pytest.mark.root, pytest.mark.own] * case.root,
        )
        for case in CASES
    ]
)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    case: Case = request.param
    more = {"dockerd": request.getfixturevalue("dockerd")} if case.docker else {}
    async with case.make(tmp_path, **more) as ready:
        yield ready


async def ask(fd: int, line: bytes) -> bytes:
    os.write(fd, line + b"\n")
    return (await read_until(fd, b"\n")).rstrip(b"\n")


async def close_and_stop(rig: Rig, handle: Handle, *fds: int) -> None:
    for fd in fds:
        os.close(fd)
    await rig.driver.stop(handle, 0)


async def test_it_is_usable_and_says_what_it_enforces(rig: Rig) -> None:
    probe = await rig.driver.probe()
    assert probe.usable
    assert probe.driver == rig.inner.name
    if rig.isolates:
        assert {"pids", "tmp", "seccomp"} <= probe.enforces
        said = {found.name for found in probe.missing}
        for limit in ("memory", "cpu", "uids"):  # an ordinary user's are not, and then that is said
            assert (limit in probe.enforces) is (os.geteuid() == 0 or limit not in said)
        assert os.geteuid() != 0 or {"memory", "cpu", "uids"} <= probe.enforces
    else:
        assert not probe.enforces
        assert probe.missing
    assert await rig.driver.probe() == probe


async def test_exit_code_and_output_arrive(rig: Rig) -> None:
    ended, out, err = await rig.run("print('to out'); print('to err', file=sys.stderr); sys.exit(7)")
    assert ended == Exit(7)
    assert (out, err) == ("to out\n", "to err\n")


async def test_a_signal_is_told_from_an_exit(rig: Rig) -> None:
    ended, _, _ = await rig.run(f"os.kill(os.getpid(), {int(signal.SIGUSR1)})")
    assert (ended.code, ended.signal) == (None, signal.SIGUSR1)


async def test_arguments_environment_and_folder_are_exactly_those_asked_for(rig: Rig) -> None:
    os.environ["HEARTH_TEST_LEAK"] = "seen"
    try:
        _, out, _ = await rig.run(
            "print(sorted(os.environ.items()), os.getcwd().endswith('/tmp'), sys.stdin.read() == '')",
            env=(("GREETING", "hi ü\n=x"), ("EMPTY", "")),
        )
    finally:
        del os.environ["HEARTH_TEST_LEAK"]
    assert "('GREETING', 'hi ü\\n=x')" in out
    assert "('EMPTY', '')" in out
    assert "HEARTH_TEST_LEAK" not in out
    assert out.endswith("True True\n")


async def test_a_guest_dials_and_both_sides_speak(rig: Rig) -> None:
    handle = await rig.start(GUEST)
    fd = await rig.driver.connect(handle, soon())
    assert os.get_blocking(fd) is False
    assert os.get_inheritable(fd) is False
    assert await read_until(fd, b"\n") == b"hello\n"
    assert await ask(fd, b"echo") == b"echo"
    with pytest.raises(SandboxFailed):
        await rig.driver.connect(handle, soon())
    os.close(fd)
    assert (await asyncio.wait_for(rig.driver.wait(handle), patient(20))).code == 0
    await rig.driver.stop(handle, 0)


async def test_connect_fails_when_the_program_ends_first(rig: Rig) -> None:
    handle = await rig.start("sys.exit(3)")
    with pytest.raises(SandboxFailed):
        await rig.driver.connect(handle, soon())
    assert (await rig.driver.wait(handle)).code == 3
    await rig.driver.stop(handle, 0)


async def test_connect_fails_at_its_deadline_and_can_be_asked_again(rig: Rig) -> None:
    handle = await rig.start("sys.stdout.flush(); import signal; signal.pause()")
    with pytest.raises(SandboxFailed):
        await rig.driver.connect(handle, soon(0.01))
    with pytest.raises(SandboxFailed):
        await rig.driver.connect(handle, soon(0.01))
    await rig.driver.stop(handle, 0)


async def test_attach_brings_code_and_secrets(rig: Rig) -> None:
    assert isinstance(rig.driver, CanAttach)
    artifact = rig.artifact(**{"main.txt": "the code"})
    await rig.driver.prepare(artifact)
    handle = await rig.start(GUEST)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    assert await ask(fd, b"code") == b"none"
    await rig.attach(handle, artifact, limits=Limits(tmp=1 << 20), secrets=(("TOKEN", b"s3cret"),))
    assert await ask(fd, b"code") == b"the code"
    assert await ask(fd, b"secret") == b"s3cret"
    with pytest.raises(SandboxFailed):
        await rig.attach(handle, artifact)
    await close_and_stop(rig, handle, fd)


DIALLER = """
s = dial()
port = int(s.recv(10))
with socket.create_connection(("127.0.0.1", port)) as c: s.sendall(c.recv(100) + c.getsockname()[0].encode() + b"\\n")
s.recv(1)
"""


async def test_what_listens_in_a_sandbox_is_reached_from_inside_alone(rig: Rig) -> None:
    handle, other = await rig.start(DIALLER), await rig.start(DIALLER)
    fds = [await rig.driver.connect(one, soon()) for one in (handle, other)]
    listening = await rig.driver.listen(handle)
    assert listening is not None
    with socket.socket(fileno=listening) as listener:
        port = listener.getsockname()[1]
        if rig.isolates:
            assert port == CALLS_PORT
            with pytest.raises(OSError):  # this test's own loopback, and another sandbox's, are others
                socket.create_connection(("127.0.0.1", port), 1).close()
            os.write(fds[1], b"%d" % port)
            assert await asyncio.wait_for(read_some(fds[1]), 20) == b""
        os.write(fds[0], b"%d" % port)
        accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 20)
        with accepted:
            accepted.sendall(b"hello from ")
            assert await read_until(fds[0], b"\n") == b"hello from 127.0.0.1\n"
        if rig.isolates:
            with pytest.raises(SandboxFailed):
                await rig.driver.listen(handle)
    await close_and_stop(rig, other, fds[1])
    await close_and_stop(rig, handle, fds[0])


async def test_nobody_listens_in_a_sandbox_that_has_its_code(rig: Rig) -> None:
    handle = await rig.start(GUEST)
    fd = await rig.driver.connect(handle, soon())
    await rig.attach(handle, rig.artifact())
    with pytest.raises(SandboxFailed):
        await rig.driver.listen(handle)
    await close_and_stop(rig, handle, fd)


async def test_attaching_what_is_not_there_is_not_found(rig: Rig) -> None:
    for name in ("sha256-nothing", "..", "../artifacts", "a/b", "", "/etc"):
        handle = await rig.start(GUEST)
        with pytest.raises(HearthError) as caught:
            await rig.attach(handle, name)
        if name == "sha256-nothing":
            assert isinstance(caught.value, NotFound)
        await rig.driver.stop(handle, 0)


async def test_a_build_cannot_be_attached_to(rig: Rig) -> None:
    handle = await rig.start("import signal; signal.pause()", guest=False)
    with pytest.raises(SandboxFailed):
        await rig.attach(handle, rig.artifact())
    with pytest.raises(SandboxFailed):
        await rig.driver.connect(handle, soon(0.05))
    await rig.driver.stop(handle, 0)


async def test_many_wait_and_all_hear_it_until_stop_has_returned(rig: Rig) -> None:
    handle = await rig.start(GUEST)
    waiters = [asyncio.ensure_future(rig.driver.wait(handle)) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()  # one that leaves takes nobody with it
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    os.close(fd)
    assert [(await waiter).code for waiter in waiters[1:]] == [0, 0]
    assert (await rig.driver.wait(handle)).code == 0
    assert (await rig.driver.stop(handle, 0)).code == 0
    with pytest.raises(SandboxFailed):
        await rig.driver.wait(handle)


async def test_stop_asks_first(rig: Rig) -> None:
    handle = await rig.start(
        # Blocked and waited for: a handler could run just before a pause, which then would never end.
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); dial().sendall(b'up\\n')\n"
        "signal.sigwait({15}); os._exit(5)"
    )
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    ended = await rig.driver.stop(handle, 20)
    assert ended.code == 5
    os.close(fd)


async def test_stop_insists(rig: Rig) -> None:
    handle = await rig.start(
        "import signal; signal.signal(15, signal.SIG_IGN); s = dial(); s.sendall(b'up\\n')\nwhile 1: signal.pause()"
    )
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    ended = await rig.driver.stop(handle, 0.05)
    assert (ended.code, ended.signal) == (None, signal.SIGKILL)
    assert await read_some(fd) == b""
    os.close(fd)


async def test_stop_is_idempotent_also_at_once(rig: Rig) -> None:
    handle = await rig.start("import signal; signal.pause()")
    first = await asyncio.gather(*(rig.driver.stop(handle, 0) for _ in range(3)))
    assert first[0].signal == signal.SIGKILL
    assert all(ended == first[0] for ended in first)
    assert await rig.driver.stop(handle, 0) == Exit(None, reason="gone")
    assert await rig.driver.stop(Handle("nonsense"), 0) == Exit(None, reason="gone")


async def test_stop_goes_on_when_its_caller_leaves(rig: Rig) -> None:
    handle = await rig.start("import signal; signal.signal(15, signal.SIG_IGN); signal.pause()")
    leaving = asyncio.ensure_future(rig.driver.stop(handle, 0.1))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await rig.driver.stop(handle, 0)
    assert await rig.driver.list_owned(None) == []


async def test_stop_ends_daemonised_grandchildren(rig: Rig) -> None:
    code = """
s = dial()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        s.sendall(b"up\\n")
        time.sleep(1000)
    os._exit(0)
import signal
signal.pause()
"""
    handle = await rig.start(code)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    await rig.driver.stop(handle, 0)
    assert await read_some(fd) == b""  # nobody holds the other end any more
    os.close(fd)


async def test_owners_are_told_apart(rig: Rig) -> None:
    other = fresh("owner")
    mine = await rig.start(GUEST)
    if isinstance(rig.driver, RemoteDriver):  # the keeper lets nobody start in another's name
        with pytest.raises(Forbidden):
            await rig.start(GUEST, owner=other)
        assert await rig.driver.list_owned(rig.owner) == [mine]
        await rig.driver.stop(mine, 0)
        return
    theirs = await rig.start(GUEST, owner=other)
    assert await rig.driver.list_owned(rig.owner) == [mine]
    assert await rig.driver.list_owned(other) == [theirs]
    assert set(await rig.driver.list_owned(None)) == {mine, theirs}
    await asyncio.gather(rig.driver.stop(mine, 0), rig.driver.stop(theirs, 0))
    assert await rig.driver.list_owned(None) == []


async def test_a_program_that_is_not_there(rig: Rig) -> None:
    with pytest.raises(SandboxFailed) as caught:
        await rig.driver.start(rig.spec("", argv=("/usr/bin/no-such-program",)), soon())
    assert "no-such-program" in caught.value.message
    assert await rig.driver.list_owned(None) == []


async def test_a_start_whose_time_is_up_leaves_nothing(rig: Rig) -> None:
    with pytest.raises(HearthError):
        await rig.driver.start(rig.spec(GUEST), soon(-1))
    assert await rig.driver.list_owned(None) == []


async def test_a_start_that_is_cancelled_leaves_nothing(rig: Rig) -> None:
    for delay in (0, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.012):
        starting = asyncio.ensure_future(rig.driver.start(rig.spec(GUEST), soon()))
        await asyncio.sleep(delay)
        starting.cancel()
        done = (await asyncio.gather(starting, return_exceptions=True))[0]
        if isinstance(done, str):  # it was quicker
            await rig.driver.stop(Handle(done), 0)
        for handle in await rig.driver.list_owned(None):  # as a reaper would
            await rig.driver.stop(handle, 0)
        assert await rig.driver.list_owned(None) == []


async def test_one_id_is_one_sandbox(rig: Rig) -> None:
    spec = rig.spec(GUEST)
    handle = await rig.driver.start(spec, soon())
    with pytest.raises(SandboxFailed):
        await rig.driver.start(spec, soon())
    assert await rig.driver.list_owned(None) == [handle]
    await rig.driver.stop(handle, 0)


async def test_mounts_stand_where_they_should(rig: Rig) -> None:
    tool = rig.folders["toolchain"] / "node-22"
    tool.mkdir(mode=0o755)
    (tool / "bin.txt").write_text("tool")
    mount = Mount("toolchain", "node-22", "/toolchains/node")
    ended, out, err = await rig.run(
        "print(open(sys.argv[1]).read())",
        mounts=(mount,),
        argv=(
            "/usr/bin/python3",
            "-I",
            "-c",
            "import sys; print(open(sys.argv[1]).read())",
            "/toolchains/node/bin.txt",
        ),
    )
    assert (ended.code, out) == (0, "tool\n"), err


async def test_mounts_that_are_not_there_or_not_allowed(rig: Rig) -> None:
    (rig.folders["toolchain"] / "link").symlink_to("/etc")
    wrong = [
        Mount("toolchain", "nothing", "/toolchains/x"),
        Mount("toolchain", "../artifacts", "/toolchains/x"),
        Mount("toolchain", "..", "/toolchains/x"),
        Mount("prefix", "/root", "/root"),
        Mount("seed", "x", "/seed"),
    ]
    if rig.isolates:
        wrong += [
            Mount("toolchain", "link", "/toolchains/x"),
            Mount("toolchain", "node", "/usr/lib"),
            Mount("toolchain", "node", "/a/../etc"),
            Mount("toolchain", "node", "/hearth/code"),
        ]
    for mount in wrong:
        with pytest.raises(HearthError):
            await rig.driver.start(rig.spec(GUEST, mounts=(mount,)), soon())
    assert await rig.driver.list_owned(None) == []


async def test_a_disk_is_writable_and_belongs_to_the_program(rig: Rig) -> None:
    disk = Disk("ns_one", 16 << 20, "/work")
    code = "p = sys.argv[1]; open(p + '/file', 'w').write('kept'); print(os.stat(p).st_uid == os.getuid())"
    ended, out, err = await rig.run(
        "", disk=disk, argv=("/usr/bin/python3", "-I", "-c", "import os, sys; " + code, "/work")
    )
    assert (ended.code, out) == (0, "True\n"), err


async def test_output_that_nobody_reads_blocks_only_the_program(rig: Rig) -> None:
    handle = await rig.start(
        "s = dial(); s.sendall(b'up\\n')\nwhile 1: os.write(1, b'x' * 4096)", limits=Limits(pids=8)
    )
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    assert len(await rig.driver.list_owned(None)) == 1  # the driver answers meanwhile
    await rig.driver.usage(handle)
    await close_and_stop(rig, handle, fd)


async def test_output_can_be_taken_once(rig: Rig) -> None:
    handle = await rig.start(GUEST)
    out, err = rig.driver.output(handle)
    assert not os.get_blocking(out)
    assert not os.get_inheritable(out)
    with pytest.raises(SandboxFailed):
        rig.driver.output(handle)
    await close_and_stop(rig, handle, out, err)


async def test_usage(rig: Rig) -> None:
    handle = await rig.start(GUEST)
    fd = await rig.driver.connect(handle, soon())
    await read_until(fd, b"\n")
    usage = await rig.driver.usage(handle)
    if rig.isolates:
        assert usage.memory > 0
        assert usage.memory_peak >= usage.memory
        assert usage.cpu_seconds > 0
        assert usage.pids >= 2
    assert usage.oom_kills == 0
    await close_and_stop(rig, handle, fd)
    with pytest.raises(SandboxFailed):
        await rig.driver.usage(handle)


async def test_many_at_once(rig: Rig) -> None:
    handles = await asyncio.gather(*(rig.start(GUEST) for _ in range(12)))
    fds = [await rig.driver.connect(handle, soon()) for handle in handles]
    for fd in fds:
        assert await read_until(fd, b"\n") == b"hello\n"
        os.close(fd)
    await asyncio.gather(*(rig.driver.stop(handle, 1) for handle in handles))


async def test_a_network_that_cannot_be_held_is_refused(rig: Rig) -> None:
    if not rig.isolates:  # a plain process has the host's network, and the probe says so
        assert "network" not in (await rig.driver.probe()).enforces
        return
    with pytest.raises(HearthError):
        await rig.driver.start(rig.spec(GUEST, network=Network("internet")), soon())
