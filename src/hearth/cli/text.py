"""Text from elsewhere, made fit for a terminal; times and sizes for people."""

from __future__ import annotations

import datetime
import unicodedata

_TURNING = set("\u200e\u200f\u061c\u2028\u2029") | {
    chr(c) for c in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def safe(text: str) -> str:
    """Replace what a terminal would obey rather than show (controls, changes of writing direction) by ``\\x1b``.

    Tabs stay. So a function can't clear the screen, set the window's title or hide its lines by what it prints.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(char) if _commands(char) else char for char in text)


def _commands(char: str) -> bool:
    return char in _TURNING or (unicodedata.category(char) in ("Cc", "Cs") and char != "\t")


def _escape(char: str) -> str:
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"


def safe_lines(text: str) -> list[str]:
    """The lines of a text, each safe. A carriage return before a line's end is dropped."""
    return [safe(line.removesuffix("\r")) for line in text.split("\n")]


def moment(at_ms: int) -> str:
    """``2026-11-24T01:18:24.123Z`` for milliseconds since the epoch."""
    at = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def day(at_ms: int | None) -> str:
    """``2026-11-24 02:18`` in the machine's time zone; a dash for never."""
    if at_ms is None:
        return "-"
    return datetime.datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M")


def seconds(value: float) -> str:
    """``30s``, ``0.5s``."""
    return f"{value:g}s"


def size(count: int | None) -> str:
    """``1.4 MiB`` for bytes; a dash for none known."""
    if count is None:
        return "-"
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
