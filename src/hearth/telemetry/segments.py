"""How log lines lie on disk: ``logs/<function id>/<owner>.<number>.jsonl``, one JSON object a line.

A file has one writer, whose owner id its name carries; nothing in it is ever changed, old files are removed whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from hearth.ports.logs import LogLine

SUFFIX = ".jsonl"
LINE_MAX = 64 << 10  # bytes of a line's text
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


def folder(root: Path, function_id: str) -> Path:
    """Where a function's lines are. Raises ValueError for what can't be an id."""
    if _NAME.fullmatch(function_id) is None:
        raise ValueError(f"{function_id[:80]!r} is no function's id")
    return root / function_id


def encode(line: LogLine) -> bytes:
    """One line with its newline. ASCII: whatever text a function logs, lone surrogates too, can be written."""
    text = line.text
    if len(text) * 4 > LINE_MAX:
        data = text.encode("utf-8", "surrogatepass")
        if len(data) > LINE_MAX:
            text = data[: LINE_MAX - 16].decode("utf-8", "ignore") + " … (cut)"
    fields = (
        line.at_ms,
        line.source,
        line.stream,
        line.level,
        text,
        line.version,
        line.instance,
        line.invocation,
    )
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def decode(raw: bytes) -> LogLine | None:
    """The inverse of `encode`; None for a line that a crash left unfinished."""
    try:
        at_ms, source, stream, level, text, version, instance, invocation = json.loads(raw)
    except (ValueError, TypeError):
        return None
    return LogLine(at_ms, source, stream, level, text, version, instance, invocation)


def segments(directory: Path) -> list[tuple[Path, int, float]]:
    """(path, size, time of the last change) of a function's files, the oldest first."""
    found = []
    try:
        paths = list(directory.iterdir())
    except FileNotFoundError:
        return []
    for path in paths:
        if path.suffix == SUFFIX:
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # removed meanwhile by its writer
            found.append((path, stat.st_size, stat.st_mtime))
    found.sort(key=lambda entry: (entry[2], entry[0].name))
    return found
