"""A build's log on its way: bytes to lines, scrubbed, bounded, with a tail and the place of the first error."""

from __future__ import annotations

import re
from collections.abc import Callable
from posixpath import normpath

from hearth.core import limits

LINE_MAX = 8192  # bytes; longer lines are cut into several
TAIL = 4096
_DISK_FULL = re.compile(r"No space left on device|ENOSPC|Disk quota exceeded", re.IGNORECASE)
_PYTHON = re.compile(r'File "([^"\n]+)", line (\d+)')
_NODE = re.compile(r"(?:^|[\s(])(?:file://)?(/[^\s:()]+\.[cm]?[jt]sx?):(\d+)", re.MULTILINE)
_MARKED = re.compile(r"^([^\s:]+):(\d+)(?::\d+)?: error: ", re.MULTILINE)
_GO = re.compile(r"^(?:vet: )?([\w./-]+\.go):(\d+)(?::\d+)?:? ", re.MULTILINE)
_ERROR = re.compile(r"\b\w*(?:Error|Exception)\b:|^error|: error")
_NPM_TEXT = re.compile(r"npm error (?!code |errno |Log files|A complete log|network This|\S+$)(?=.*\s)")
_ADVICE = (
    (
        re.compile(
            r"cannot find module providing package|no required module provides package|missing go\.sum entry"
        ),
        "run `go mod tidy` in the project, and deploy again",
    ),
    (
        re.compile(
            r"was not found in the package registry|there is no version of|npm error code (?:E404|ETARGET)"
        ),
        "look at the package's name and version",
    ),
)
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")


class BuildLog:
    """Takes the bytes of a build's stderr.

    Args:
        emit: told each line.
        scrub: takes credentials out of a line.
        most: bytes after which lines are counted, no longer told.
    """

    def __init__(
        self, emit: Callable[[str], None], scrub: Callable[[str], str], most: int = limits.BUILD_LOG_MAX
    ) -> None:
        self._emit = emit
        self._scrub = scrub
        self._most = most
        self._rest = b""
        self._told = self._dropped = 0
        self._tail = ""
        self.disk_full = False

    def feed(self, data: bytes) -> None:
        """More bytes, in pieces of any size."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._rest) > LINE_MAX:
            # Cut at a blank, so that no credential is cut in two and slips through.
            at = self._rest.rfind(b" ", LINE_MAX // 2, LINE_MAX) + 1 or LINE_MAX
            self._line(self._rest[:at])
            self._rest = self._rest[at:]

    def close(self) -> None:
        """The end of the log."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        if self._dropped:
            self._emit(f"… {self._dropped:,} more bytes of the log are not kept")

    def _line(self, raw: bytes) -> None:
        text = raw.rpartition(b"\r")[2] or raw.rstrip(b"\r")  # of a progress bar, its last state
        line = self._scrub(_CONTROL.sub("", text.decode("utf-8", "replace")))
        self.disk_full = self.disk_full or _DISK_FULL.search(line) is not None
        self._tail = (self._tail + line + "\n")[-2 * TAIL :]
        self._told += len(raw) + 1
        if self._told > self._most:
            self._dropped += len(raw) + 1
        else:
            self._emit(line)

    @property
    def tail(self) -> str:
        """The last 4 KiB, whole lines where possible."""
        if len(self._tail) <= TAIL:
            return self._tail
        cut = self._tail[-TAIL:]
        return cut.partition("\n")[2] or cut


def find_place(text: str, work: str) -> tuple[str, int] | None:
    """The file (relative to the source) and line that an error of Python, Node or Go names.

    Args:
        text: the end of a log.
        work: the folder that the source was built in.
    """
    for pattern, last in ((_MARKED, False), (_PYTHON, True), (_NODE, False), (_GO, False)):
        found = [(_inside(match[1], work), int(match[2])) for match in pattern.finditer(text)]
        places = [(file, line) for file, line in found if file is not None and line < 10_000_000]
        if places:
            return places[-1] if last else places[0]
    return None


def _inside(file: str, work: str) -> str | None:
    if file.startswith(work + "/"):
        file = file[len(work) + 1 :]
    file = normpath(file)
    foreign = file.startswith(("/", "..", "<")) or "site-packages/" in file or "node_modules/" in file
    return None if foreign else file


def last_words(tail: str) -> str:
    """The line that says most likely what went wrong, at most 300 characters.

    That is npm's first line with a text (its last ones are about itself), uv's error with its cause, the last line that looks
    like an error, the last that isn't empty.
    """
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    npm = [line for line in lines if _NPM_TEXT.match(line)]
    errors = [at for at, line in enumerate(lines) if _ERROR.search(line)]
    if npm:
        return npm[0][:300]
    if errors:
        found, after = lines[errors[-1]], lines[errors[-1] + 1 :]
        cause = after[0].removeprefix("cause:") if after and after[0].startswith("cause:") else ""
        return f"{found}{':' if cause else ''}{cause}"[:300]
    return (lines or [""])[-1][:300]


def advice(tail: str) -> str:
    """What to do about a failed build, by what its log says."""
    return next((hint for pattern, hint in _ADVICE if pattern.search(tail)), "mend it and deploy again")
