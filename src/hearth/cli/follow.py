"""Watching an upload and a build from the terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hearth.cli.output import note
from hearth.cli.text import safe_lines
from hearth.core.errors import BuildFailed, ControlUnavailable, FunctionError, HearthError, error_classes

if TYPE_CHECKING:
    from hearth.client.api import Client
    from hearth.wire.models import Deployed, DeployEvent, FailureItem, VersionItem

_RECONNECTS = 10
_PAUSE = 1.0  # seconds between two tries; control is back within about one
_WORDS = {
    "building": "Building",
    "proving": "Starting one instance, to see that it loads",
}


@contextlib.contextmanager
def uploading(total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar of `total` bytes on a terminal's stderr; yields what is told the bytes sent so far."""
    if not (shown and sys.stderr.isatty()):
        yield lambda sent: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("Uploading"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("upload", total=total)
        yield lambda sent: bar.update(task, completed=sent)


def follow_deploy(client: Client, deployed: Deployed) -> tuple[str, VersionItem]:
    """Show a deploy's log until it ends; returns the function's URL and the version that is live now.

    A connection that breaks (control was restarted) is made again: what was shown already is not shown twice.

    Raises:
        FunctionError: it does not build or load, with file and line where they are known.
        ControlUnavailable: the server stayed away.
    """
    shown = _Shown()
    failures = 0
    try:
        while True:
            before = shown.logged
            try:
                end = _watch(client, deployed, shown)
            except ControlUnavailable:
                end = None
                if failures >= _RECONNECTS:
                    raise
            if end is not None and end.version is not None:
                break
            failures = failures + 1 if shown.logged == before else 0
            if failures > _RECONNECTS:
                raise ControlUnavailable("the server tells nothing of the deploy", hint=_going_on(deployed))
            time.sleep(_PAUSE)
    except KeyboardInterrupt:
        note(f"\nVersion {deployed.version} goes on without you. {_going_on(deployed)}")
        raise
    if end.kind == "failed":
        failure = end.version.failure
        raise _failure(failure, shown) if failure is not None else BuildFailed("the deploy failed")
    url = end.url or client.function(deployed.namespace, deployed.name).url
    return url, end.version


class _Shown:
    """How far the log has been shown, and its last lines: a failure's tail that repeats them is left out."""

    def __init__(self) -> None:
        self.logged = 0
        self.states: set[str] = set()
        self.lines: set[str] = set()


def _watch(client: Client, deployed: Deployed, shown: _Shown) -> DeployEvent | None:
    """Show events until the last one, which is returned; None when the stream ended without it."""
    logged = 0
    for event in client.progress(deployed.namespace, deployed.name, deployed.version):
        if event.kind in ("done", "failed"):
            return event
        if event.kind == "state" and event.state in _WORDS and event.state not in shown.states:
            shown.states.add(event.state)
            note(f"{_WORDS[event.state]} …")
        if event.kind == "log" and event.text is not None:
            logged += 1
            if logged > shown.logged:
                shown.logged = logged
                _show(event.text, shown)
    return None


def _show(text: str, shown: _Shown) -> None:
    for line in safe_lines(text.rstrip("\n")):
        shown.lines.add(line.strip())
        note(f"  {line}")


def _failure(failure: FailureItem, shown: _Shown) -> HearthError:
    tail = [line for line in safe_lines(failure.tail.rstrip()) if line.strip()]
    if not all(line.strip() in shown.lines for line in tail):
        for line in tail:
            note(f"  {line}")
    cls = error_classes().get(failure.code, FunctionError)
    place = ""
    if failure.file is not None and failure.file not in failure.message:
        place = f" ({failure.file}{f', line {failure.line}' if failure.line is not None else ''})"
    details = {
        key: value for key, value in (("file", failure.file), ("line", failure.line)) if value is not None
    }
    if failure.tail:
        details["tail"] = failure.tail
    return cls(f"{failure.message}{place}", hint=failure.hint, details=details)


def _going_on(deployed: Deployed) -> str:
    return f"See how it ends with: hearth versions {deployed.namespace}/{deployed.name}"
