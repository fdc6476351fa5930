"""What Python functions print and log, with the invocation's id, within credit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.integration.python_shim import function
from tests.integration.shim_host import LOG_WINDOW, Host, frame, request


def lines(host: Host) -> list[tuple[Any, ...]]:
    return [(log["inv"], log["stream"], log["level"], log["text"]) for log in host.logs]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_prints_and_records(concurrency: int, tmp_path: Path) -> None:
    source = """
    import logging, os, sys
    print("at import")
    def handler(event, context):
        print("one", "two")
        print("no end", end="")
        sys.stderr.write("a\\nb\\n")
        sys.stdout.buffer.write(b"bytes \\xff\\n")
        logging.warning("careful %s", 5)
        logging.getLogger("x").info("not shown by default")
        logging.getLogger().setLevel(logging.DEBUG)
        logging.getLogger("x").debug("shown\\nin two lines")
        logging.warning("bad %d", "format")
    """
    with function(tmp_path, source, concurrency=concurrency) as host:
        host.call(1)
        got = lines(host)
        assert got[0] == (None, "stdout", "info", "at import")
        assert got[1:9] == [
            ("inv_1", "stdout", "info", "one two"),
            ("inv_1", "stderr", "info", "a"),
            ("inv_1", "stderr", "info", "b"),
            ("inv_1", "stdout", "info", "no endbytes \ufffd"),
            ("inv_1", "log", "warning", "careful 5"),
            ("inv_1", "log", "debug", "shown"),
            ("inv_1", "log", "debug", "in two lines"),
            ("inv_1", "stderr", "info", "--- Logging error ---"),
        ]


def test_basic_config_works_as_ever(tmp_path: Path) -> None:
    source = """
    import logging
    logging.basicConfig(level=logging.INFO, format="%(levelname)s:%(message)s")
    def handler(event, context):
        logging.info("hello")
    """
    with function(tmp_path, source) as host:
        host.call(1)
        assert lines(host) == [("inv_1", "log", "info", "INFO:hello")]


def test_basic_config_with_a_stream(tmp_path: Path) -> None:
    source = """
    import logging, sys
    logging.basicConfig(stream=sys.stdout, format="%(message)s!")
    def handler(event, context):
        logging.error("hello")
    """
    with function(tmp_path, source) as host:
        host.call(1)
        assert lines(host) == [("inv_1", "stdout", "info", "hello!")]


def test_an_unfinished_line_is_sent_at_the_end(tmp_path: Path) -> None:
    with function(tmp_path, "def handler(event, context): print('x', end='')") as host:
        host.call(1)
        assert lines(host) == [("inv_1", "stdout", "info", "x")]


def test_tasks_and_threads(tmp_path: Path) -> None:
    source = """
    import asyncio, threading
    async def child(text):
        await asyncio.sleep(0.01)
        print("task", text)
    async def handler(event, context):
        task = asyncio.create_task(child(event["rawQueryString"]))
        await asyncio.sleep(0)
        await task
        await asyncio.to_thread(print, "to_thread", event["rawQueryString"])
        thread = threading.Thread(target=print, args=("thread", event["rawQueryString"]))
        thread.start()
        thread.join()
    """
    with function(tmp_path, source) as host:
        host.send(request(1, target="/?1"), request(2, target="/?2"))
        host.answer(1)
        host.answer(2)
        got = {(inv, text) for inv, _, _, text in lines(host)}
    assert got == {
        ("inv_1", "task 1"), ("inv_2", "task 2"), ("inv_1", "to_thread 1"), ("inv_2", "to_thread 2"),
        (None, "thread 1"), (None, "thread 2"),
    }  # fmt: skip


def test_several_threads_keep_their_lines_apart(tmp_path: Path) -> None:
    source = """
    import threading
    together = threading.Barrier(4)
    def handler(event, context):
        for part in "abc":
            print(part, end="")
            together.wait(10)
        print(event["rawQueryString"])
    """
    with function(tmp_path, source, concurrency=4) as host:
        host.send(*(request(n, target=f"/?{n}") for n in range(1, 5)))
        for n in range(1, 5):
            host.answer(n)
        assert {(inv, text) for inv, _, _, text in lines(host)} == {
            (f"inv_{n}", f"abc{n}") for n in range(1, 5)
        }


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_flood_is_dropped_and_counted(concurrency: int, tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        for n in range(int(event["rawQueryString"])):
            print(n, "x" * 100)
        return "done"
    """
    with function(tmp_path, source, concurrency=concurrency, log_window=20_000) as host:
        assert host.call(1, target="/?100000").body == b"done"
        kept = len(host.logs)
        assert 50 < kept < 200
        host.send(frame(LOG_WINDOW, 0, (1 << 20).to_bytes(4, "big")))
        host.call(2, target="/?1")
        texts = [log["text"] for log in host.logs[kept:]]
        assert texts == [
            f"{100_000 - kept} lines were dropped here: more is logged than is taken",
            "0 " + "x" * 100,
        ]


def test_a_gap_is_counted_once(tmp_path: Path) -> None:
    """Though there was credit left for a count, and none for a line."""
    source = """
    def handler(event, context):
        for n in range(int(event["rawQueryString"])):
            print("x" * 5000)
        return "done"
    """
    with function(tmp_path, source, log_window=23_000) as host:
        assert host.call(1, target="/?1000").body == b"done"
        kept = len(host.logs)
        assert [log["text"] for log in host.logs] == ["x" * 5000] * kept
        host.send(frame(LOG_WINDOW, 0, (1 << 20).to_bytes(4, "big")))
        assert "lines were dropped" in host.log_lines(kept + 1)[kept]["text"]


def test_odd_text(tmp_path: Path) -> None:
    source = """
    def handler(event, context):
        print("\\ud800 \\x00 \\x1b[31m \\u2028 h\\u00e9")
        print("x" * 200_000)
        print("\\u20ac" * 60_000)
        for _ in range(1000):
            print("y" * 10_000, end="")
        print()
        print("after")
    """
    with function(tmp_path, source) as host:
        host.call(1)
        texts = [log["text"] for log in host.logs]
    assert texts[0] == "\ud800 \x00 \x1b[31m \u2028 hé"
    for text in texts[1:4]:
        assert text.endswith(" … (cut)") and 60_000 < len(text.encode()) <= 65536
    assert texts[4:] == ["after"]


def test_stdout_is_a_whole_stream(tmp_path: Path) -> None:
    source = """
    import io, sys, contextlib, warnings
    def handler(event, context):
        try:
            sys.stdout.write(b"x")
        except TypeError as error:
            print(error)
        kept = io.StringIO()
        with contextlib.redirect_stdout(kept):
            print("not a log")
        sys.stdout.flush(), sys.stdout.close()
        print("still", sys.stdout.isatty(), sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.encoding, sys.stdout.closed)
        print(sys.stdout.writable(), sys.stdout.readable(), file=sys.stderr)
        sys.stdout.writelines(["a\\n", "b\\n"])
        warnings.warn("careful")
    """
    with function(tmp_path, source) as host:
        assert host.call(1).error is None
        texts = [log["text"] for log in host.logs]
    assert texts[:5] == [
        "write() argument must be str, not bytes", "still False 1 2 utf-8 False", "True False", "a", "b"
    ]  # fmt: skip
    assert "UserWarning: careful" in texts[5]


def test_printing_while_garbage_is_collected_and_in_signals(tmp_path: Path) -> None:
    source = """
    import gc, signal, sys
    class Loud:
        def __init__(self): self.me = self
        def __del__(self): print("collected")
    gc.set_threshold(5)
    signal.signal(signal.SIGALRM, lambda *_: print("alarm"))
    def handler(event, context):
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        for n in range(500):
            Loud()
            sys.stdout.write(f"line {n}\\n")
        signal.setitimer(signal.ITIMER_REAL, 0)
        return "done"
    """
    with function(tmp_path, source, concurrency=1) as host:
        assert host.call(1).body == b"done"
        texts = [log["text"] for log in host.logs]
    assert [text for text in texts if text.startswith("line")] == [f"line {n}" for n in range(500)]
    assert "collected" in texts and "alarm" in texts
