"""A Python shim's process with a function in it, for tests."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.shim_host import INIT_ERROR, READY, Host, shim, write_files

MAIN = Path(__file__).parents[2] / "src/hearth/runtimes/shims/python/main.py"
ARGV = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-X", "faulthandler", str(MAIN)]


@contextmanager
def function(
    folder: Path, source: str | dict[str, str], handler: str = "", **settings: Any
) -> Iterator[Host]:
    """A loaded function; `source` is handler.py, or files by name. `settings` go into the load frame."""
    files = source if isinstance(source, dict) else {"handler.py": source}
    code = write_files(folder, {name: textwrap.dedent(text) for name, text in files.items()})
    with shim(ARGV) as host:
        kind, said = host.load(code, handler, **settings)
        assert kind == READY, said
        host.ready = said  # type: ignore[attr-defined]
        yield host


def refused(folder: Path, source: str | dict[str, str], handler: str = "", **settings: Any) -> dict[str, Any]:
    """What `init-error` says of a function that does not load; the process has ended."""
    files = source if isinstance(source, dict) else {"handler.py": source}
    code = write_files(folder, {name: textwrap.dedent(text) for name, text in files.items()})
    with shim(ARGV) as host:
        kind, said = host.load(code, handler, **settings)
        assert kind == INIT_ERROR, said
        assert host.gone() == 1
        return said
