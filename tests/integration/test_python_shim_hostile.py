"""Function code that misbehaves: the shim, or at least the next request, survives."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.python_shim import function
from tests.integration.shim_host import BODY, frame, request


@pytest.mark.parametrize("concurrency", [1, 4])
def test_exit_is_a_death_with_the_lines_before_it(concurrency: int, tmp_path: Path) -> None:
    source = "import os\ndef handler(event, context):\n    print('before')\n    os._exit(7)\n"
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.send(request(1))
        assert host.gone() == 7
        assert host.logs[0]["text"] == "before" and host.logs[0]["inv"] == "inv_1"


def test_a_segmentation_fault_leaves_a_trace(tmp_path: Path) -> None:
    source = "import ctypes\ndef handler(event, context): ctypes.string_at(0)\n"
    with function(tmp_path, source) as host:
        host.send(request(1))
        assert host.gone() < 0
        assert "Segmentation fault" in host.output() and "handler.py" in host.output()


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_forked_child_does_not_answer(concurrency: int, tmp_path: Path) -> None:
    source = """
    import os
    def handler(event, context):
        child = os.fork()
        if child == 0:
            print("from the child")
            return "the child's answer"
        os.waitpid(child, 0)
        return "the parent's"
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        for number in (1, 2, 3):
            assert host.call(number).body == b"the parent's"
        assert host.logs == []
        assert host.output().count("from the child") == 3


def test_the_connection_is_not_inherited(tmp_path: Path) -> None:
    source = """
    import os, socket, subprocess
    def sockets(folder):
        return [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder) if os.path.lexists(f"{folder}/{fd}")]
    def handler(event, context):
        told = subprocess.run(["/bin/ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
        r, w = os.pipe()
        if os.fork() == 0:
            links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd != "x" and os.path.exists(f"/proc/self/fd/{fd}")]
            os.write(w, repr([link for link in links if "socket" in link]).encode())
            os._exit(0)
        return [told.stdout.count("socket"), os.read(r, 1000).decode()]
    """
    with function(tmp_path, source) as host:
        assert host.call(1).json == [0, "[]"]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_writes_to_the_raw_descriptors(concurrency: int, tmp_path: Path) -> None:
    source = "import os\ndef handler(event, context):\n    os.write(1, b'raw\\n'); os.system('echo child')\n    return 'ok'\n"
    with function(tmp_path, source, concurrency=concurrency) as host:
        assert host.call(1).body == b"ok"
        assert host.output() == "raw\nchild\n"


def test_a_handler_that_breaks_its_surroundings(tmp_path: Path) -> None:
    source = """
    import os, sys
    def handler(event, context):
        sys.stdout = sys.stderr = None
        os.environ.clear()
        sys.path.clear()
        os.chdir("/")
        sys.modules.pop("json", None)
        return {"still": "here"}
    """
    with function(tmp_path, source) as host:
        assert host.call(1).json == host.call(2).json == {"still": "here"}


def test_a_handler_that_closes_every_descriptor_is_a_death(tmp_path: Path) -> None:
    source = "import os\ndef handler(event, context):\n    os.closerange(3, 100)\n    return 'x'\n"
    with function(tmp_path, source, concurrency=1) as host:
        host.send(request(1))
        host.gone()


def test_a_thread_that_raises_and_one_that_never_ends(tmp_path: Path) -> None:
    source = """
    import threading, time
    def loud(): raise ValueError("in a thread")
    def handler(event, context):
        threading.Thread(target=loud).start()
        threading.Thread(target=time.sleep, args=(60,)).start()
        return "ok"
    """
    with function(tmp_path, source) as host:
        assert host.call(1).body == b"ok"
        host.until(lambda: any("ValueError: in a thread" in log["text"] for log in host.logs))
        assert {log["inv"] for log in host.logs} == {None}
        host.connection.close()
        assert host.process.wait(10) == 0


def test_a_background_task_that_exits_ends_the_instance(tmp_path: Path) -> None:
    source = """
    import asyncio, sys
    async def later():
        sys.exit(5)
    async def handler(event, context):
        asyncio.create_task(later())
        await asyncio.sleep(1)
    """
    with function(tmp_path, source) as host:
        host.send(request(1))
        assert host.gone() != 0


def test_a_host_that_breaks_the_protocol(tmp_path: Path) -> None:
    with function(tmp_path, "def handler(event, context): return 1") as host:
        host.send(frame(BODY, 5, b"x"))
        assert host.gone() == 70
        assert "broke the guest protocol" in host.output()


def test_a_host_that_sends_more_body_than_it_may(tmp_path: Path) -> None:
    source = """
    import asyncio
    async def app(scope, receive, send):
        assert scope["type"] == "http"
        await asyncio.sleep(60)
    """
    with function(tmp_path, source) as host:
        host.send(request(1, b"x" * 200_000, end=False), frame(BODY, 1, b"x" * 62_144))
        host.send(frame(BODY, 1, b"x"))
        assert host.gone() == 70


def test_handlers_that_change_the_recursion_limit_and_eat_the_stack(tmp_path: Path) -> None:
    source = """
    def deep(n): return deep(n + 1)
    def handler(event, context):
        value = []
        for _ in range(100_000):
            value = [value]
        return value if event["rawQueryString"] else deep(0)
    """
    with function(tmp_path, source, concurrency=4) as host:
        error = host.call(1).error
        assert error is not None and error["type"] == "RecursionError"
        error = host.call(2, target="/?json").error
        assert error is not None and error["type"] == "BadResponse"
        assert len(error["message"]) > 10


def test_an_exception_with_a_huge_message(tmp_path: Path) -> None:
    source = "def handler(event, context): raise ValueError('x' * 5_000_000)"
    with function(tmp_path, source) as host:
        error = host.call(1).error
        assert error is not None and len(error["message"]) == 8000 and len(error["traceback"]) < 70_000


@pytest.mark.parametrize("concurrency", [1, 4])
def test_ten_thousand_requests_leave_nothing_behind(concurrency: int, tmp_path: Path) -> None:
    source = """
    import gc, sys
    def handler(event, context):
        return len(gc.get_objects())
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        for stream in range(1, 200):
            host.call(stream)
        before = host.call(200).json
        for stream in range(201, 1201):
            host.call(stream, target=f"/{os.urandom(4).hex()}")
        # 256 remembered targets are tuples that gc tracks until it has looked at them
        assert host.call(1201).json < before + 2000
