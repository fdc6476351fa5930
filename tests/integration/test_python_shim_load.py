"""Finding, importing and refusing handlers in a real Python shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.python_shim import ARGV, function, refused
from tests.integration.shim_host import DRAIN, frame, shim, write_files


def test_hello(tmp_path: Path) -> None:
    with shim(ARGV) as host:
        assert host.hello["version"] == 1 and host.hello["runtime"] == "python"
        assert host.hello["window"] == 262144 and host.hello["pid"] == host.process.pid
        host.send(frame(DRAIN, 0))
        assert host.gone() == 0


def test_a_waiting_slot_ends_with_its_host(tmp_path: Path) -> None:
    with shim(ARGV) as host:
        host.connection.close()
        assert host.process.wait(10) == 0


@pytest.mark.parametrize(
    ("files", "handler", "name", "shape"),
    [
        ({"handler.py": "def handler(e, c): return 1"}, "", "handler.handler", "lambda"),
        ({"handler.py": "def handler(e, c): return 1\napp = 5"}, "", "handler.handler", "lambda"),
        ({"main.py": "def handler(e, c): return 1"}, "", "main.handler", "lambda"),
        ({"app.py": "def app(environ, start_response): pass"}, "", "app.app", "wsgi"),
        ({"app.py": "def application(env, start_response): pass"}, "", "app.application", "wsgi"),
        ({"app.py": "class F:\n  wsgi_app = 1\n  def __call__(self, a, b): pass\napp = F()"}, "", "app.app", "wsgi"),
        ({"app.py": "async def app(scope, receive, send): pass"}, "", "app.app", "asgi"),
        ({"app.py": "class A:\n  async def __call__(self, scope, receive, send): pass\napp = A()"}, "", "app.app", "asgi"),
        ({"lambda_function.py": "def lambda_handler(e, c): return 1"}, "", "lambda_function.lambda_handler", "lambda"),
        ({"handler/__init__.py": "def handler(e, c): return 1"}, "", "handler.handler", "lambda"),
        ({"src/api.py": "def go(e, c): return 1"}, "src.api.go", "src.api.go", "lambda"),
        ({"src/api.py": "def go(e, c): return 1"}, "src/api.go", "src.api.go", "lambda"),
        ({"src/api.py": "def go(e, c): return 1"}, "src.api:go", "src.api.go", "lambda"),
        ({"a.py": "async def go(e, c): yield 1"}, "a.go", "a.go", "lambda"),
    ],
)  # fmt: skip
def test_what_is_found(files: dict[str, str], handler: str, name: str, shape: str, tmp_path: Path) -> None:
    with function(tmp_path, files, handler) as host:
        assert host.ready == {"handler": name, "shape": shape}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("files", "handler", "kind", "message", "place"),
    [
        ({"x.py": ""}, "", "LoadError", "there is none of handler.py", (None, None)),
        ({"handler.py": "x = 1"}, "", "LoadError", "handler.py defines no handler or", (None, None)),
        ({"handler.py": "x = 1"}, "handler.go", "LoadError", "handler.py defines no go", (None, None)),
        ({"handler.py": "x = 1"}, "other.go", "LoadError", "there is no module other", (None, None)),
        ({"handler.py": "x = 1"}, "handler", "LoadError", "is to be MODULE.NAME", (None, None)),
        ({"handler.py": "handler = 5"}, "", "LoadError", "handler.handler is a int", (None, None)),
        ({"handler.py": "def handler(a, b, c, d): pass"}, "", "LoadError", "takes 4 arguments", (None, None)),
        ({"code.py": "def go(e, c): pass"}, "json.loads", "LoadError", "a module of Python itself", (None, None)),
        ({"handler.py": "def f(:\n"}, "", "SyntaxError", "invalid syntax", ("handler.py", 1)),
        ({"handler.py": "import lib", "lib.py": "\n\nx = ("}, "", "SyntaxError", "'(' was never closed", ("lib.py", 3)),
        ({"handler.py": "\nimport nowhere"}, "", "ModuleNotFoundError", "No module named 'nowhere'", ("handler.py", 2)),
        ({"handler.py": "from json import nothing"}, "", "ImportError", "cannot import name", ("handler.py", 1)),
        ({"handler.py": "import lib", "lib.py": "\n1 / 0"}, "", "ZeroDivisionError", "division by zero", ("lib.py", 2)),
        ({"handler.py": "import sys\nsys.exit('no')"}, "", "SystemExit", "sys.exit('no')", ("handler.py", 2)),
        ({"handler.py": "raise KeyboardInterrupt"}, "", "KeyboardInterrupt", "", ("handler.py", 1)),
    ],
)  # fmt: skip
def test_what_is_refused(
    files: dict[str, str],
    handler: str,
    kind: str,
    message: str,
    place: tuple[str | None, int | None],
    tmp_path: Path,
) -> None:
    said = refused(tmp_path, files, handler)
    assert (said["type"], message in said["message"]) == (kind, True), said
    assert (said["file"], said["line"]) == place
    assert "hearth_shim" not in said["traceback"] and str(tmp_path) not in said["traceback"]
    assert "importlib" not in said["traceback"]


def test_a_source_with_null_bytes(tmp_path: Path) -> None:
    said = refused(tmp_path, "\0")  # a SyntaxError from Python 3.12 on
    assert said["type"] in {"ValueError", "SyntaxError"} and "null bytes" in said["message"]


def test_a_crash_at_import_closes_the_connection(tmp_path: Path) -> None:
    code = write_files(tmp_path, {"handler.py": "print('before')\nimport os\nos._exit(3)"})
    with shim(ARGV) as host:
        with pytest.raises(AssertionError, match="closed the connection"):
            host.load(code)
        assert host.process.wait(10) == 3
        assert host.logs[0]["text"] == "before"


def test_surroundings(tmp_path: Path) -> None:
    files = {
        "handler.py": """
        import os, sys, time, dep, extra, helper, from_pth
        def handler(event, context):
            return [os.getcwd(), os.environ["GREETING"], os.environ["HEARTH_FUNCTION"], sys.argv, time.tzname[0],
                    dep.X, helper.X, sys.path[0] == os.getcwd(), [p for p in sys.path if "shim" in p]]
        """,
        "helper.py": "X = 'helper'",
        "lib/extra.py": "",
        ".hearth/python/dep.py": "X = 'dep'",
        ".hearth/python/helper.py": "X = 'not this one'",
        ".hearth/python/more.pth": "sub\n",
        ".hearth/python/sub/from_pth.py": "",
    }
    env = {"GREETING": "hei", "HEARTH_FUNCTION": "hello", "PYTHONPATH": "lib", "TZ": "XYZ-3"}
    with function(tmp_path, files, env=env) as host:
        assert host.call(1).json == [
            str(tmp_path), "hei", "hello", [""], "XYZ", "dep", "helper", True, []
        ]  # fmt: skip


def test_an_environment_that_can_not_be_set(tmp_path: Path) -> None:
    said = refused(tmp_path, "def handler(e, c): pass", env={"X": "a\0b"})
    assert said["type"] == "ValueError"


def test_asyncio_at_import_and_threads_do_not_disturb(tmp_path: Path) -> None:
    source = """
    import asyncio, threading
    async def prepare(): return 7
    seven = asyncio.run(prepare())
    threading.Thread(target=lambda: None).start()
    async def handler(event, context): return seven
    """
    with function(tmp_path, source) as host:
        assert host.call(1).body == b"7"


def test_multiprocessing_spawn_and_fork(tmp_path: Path) -> None:
    source = """
    import multiprocessing
    def square(x): return x * x
    def handler(event, context):
        found = []
        for method in ("spawn", "fork"):
            with multiprocessing.get_context(method).Pool(2) as pool:
                found += pool.map(square, [1, 2, 3])
        return found
    """
    with function(tmp_path, source, concurrency=1) as host:
        assert host.call(1).json == [1, 4, 9, 1, 4, 9]
        assert host.call(2).json == [1, 4, 9, 1, 4, 9]
