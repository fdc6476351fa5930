"""The rules for the names, kinds and links of an uploaded or built tree: pure, no files touched.

Rejected, never rewritten: what one tool would repair, another would read differently. A leading ``./``, as `tar`
writes it, is the one exception.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from hearth.core import limits
from hearth.core.errors import InvalidSource, TooLarge

Kind = Literal["file", "dir", "link"]
PATH_MAX, NAME_MAX, DEPTH_MAX = 1024, 255, 64  # bytes, bytes (NAME_MAX of ext4, xfs, tmpfs), folders
STEPS_MAX = 1_000_000  # path parts looked at for all links of a tree
HOPS_MAX = 40  # links followed for one path, as Linux does (path_resolution(7))


@dataclass(frozen=True, slots=True)
class Caps:
    """What a tree may be at most.

    Args:
        total: bytes unpacked.
        files: files and links; the same number again of folders.
        ratio: bytes unpacked for one packed byte, once more than `ratio_free` came out; 0 for a stream that isn't packed.
        looks: refuse two names that look the same (equal under Unicode NFC) though their bytes differ.
    """

    total: int
    files: int
    ratio: int = 0
    ratio_free: int = 0
    looks: bool = False


SOURCE_CAPS = Caps(
    total=limits.SOURCE_UNPACKED_MAX,
    files=limits.SOURCE_FILES_MAX,
    ratio=limits.SOURCE_RATIO_MAX,
    ratio_free=limits.SOURCE_RATIO_FREE,
    looks=True,
)
ARTIFACT_CAPS = Caps(total=limits.ARTIFACT_MAX, files=limits.ARTIFACT_FILES_MAX)


def refuse(name: str, why: str, hint: str | None = None) -> NoReturn:
    """Raise InvalidSource for one entry, whose name is shown without control characters."""
    shown = show(name)
    raise InvalidSource(f"the archive's entry {shown} {why}", hint=hint, details={"entry": shown})


def show(name: str) -> str:
    """A hostile name as it may be printed: quoted, escaped, at most 120 characters of it."""
    return (
        ascii(name if len(name) <= 120 else f"{name[:117]}...")
        if not name.isprintable()
        else repr(name[:120])
    )


def check_name(raw: str) -> str:
    """The relative path that an entry's name stands for; empty for the root itself (``./``).

    Raises InvalidSource for anything that isn't plainly a path below the root.
    """
    name = raw
    while name.startswith("./"):
        name = name[2:]
    name = name.removesuffix("/")
    if name in ("", "."):
        if raw in ("", "/"):
            refuse(raw, "has no name")
        return ""
    _check_text(raw, name)
    if name.startswith("/"):
        refuse(raw, "is an absolute path", "pack with paths relative to the project")
    parts = name.split("/")
    for part in parts:
        if part == "..":
            refuse(raw, "leaves the tree by '..'", "pack from inside the project")
        if part in ("", "."):
            refuse(raw, "has an empty or '.' part in its path")
        if len(part.encode()) > NAME_MAX:
            refuse(raw, f"has a part longer than {NAME_MAX} bytes")
    if len(parts) > DEPTH_MAX:
        refuse(raw, f"is more than {DEPTH_MAX} folders deep")
    return name


def _check_text(raw: str, text: str) -> None:
    if "\\" in text:
        refuse(raw, "has a backslash in its path", "pack with / between folders")
    if any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text):
        refuse(raw, "has a control character in its path")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        refuse(raw, "has a path that is not UTF-8")
    if size > PATH_MAX:
        refuse(raw, f"has a path longer than {PATH_MAX} bytes")


@dataclass(slots=True)
class Tree:
    """What has been seen of a tree: add each entry, then `check_links`."""

    caps: Caps
    kinds: dict[str, Kind] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # path → target
    total: int = 0
    files: int = 0
    _explicit: set[str] = field(default_factory=set)
    _looks: dict[str, str] = field(default_factory=dict)

    def add(self, raw: str, kind: Kind) -> str:
        """Take one entry in; returns its path (empty: the root). Raises InvalidSource, TooLarge."""
        path = check_name(raw)
        if path in self._explicit:
            refuse(raw, "is in the archive twice")
        self._explicit.add(path)
        if path == "":
            if kind != "dir":
                refuse(raw, "has no name")
            return path
        cut = path.rfind("/")
        while cut > 0:  # folders that are only implied; stops at the first that is known
            if not self._enter(raw, path[:cut], "dir", implied=True):
                break
            cut = path.rfind("/", 0, cut)
        self._enter(raw, path, kind, implied=False)
        return path

    def _enter(self, raw: str, path: str, kind: Kind, implied: bool) -> bool:
        """Note a path; False when it was known (as a folder, which is fine)."""
        known = self.kinds.get(path)
        if known is not None:
            if known != "dir" or kind != "dir":
                why = f"lies below {show(path)}, which is no folder" if implied else "is in the archive twice"
                refuse(raw, why)
            return False
        if self.caps.looks:
            look = unicodedata.normalize("NFC", path)
            if self._looks.setdefault(look, path) != path:
                refuse(raw, f"looks the same as {show(self._looks[look])}", "rename one of them")
        self.kinds[path] = kind
        if kind != "dir":
            self.files += 1
        if self.files > self.caps.files or len(self.kinds) - self.files > self.caps.files:
            raise TooLarge(
                f"more than {self.caps.files:,} files or folders, at {show(path)}",
                hint="leave out what the function doesn't need (.hearthignore)",
                details={"entry": show(path), "limit": self.caps.files},
            )
        return True

    def grow(self, raw: str, count: int) -> None:
        """Count bytes that came out. Raises TooLarge."""
        self.total += count
        if self.total > self.caps.total:
            raise TooLarge(
                f"larger than {limits.format_size(self.caps.total)} unpacked, at {show(raw)}",
                hint="leave out what the function doesn't need (.hearthignore)",
                details={"entry": show(raw), "limit": self.caps.total},
            )

    def check_ratio(self, raw: str | None, unpacked: int, packed: int) -> None:
        """Refuse what swells beyond belief. `unpacked` and `packed` in bytes; no `raw`: all of it. Raises InvalidSource."""
        if self.caps.ratio and unpacked > max(self.caps.ratio_free, self.caps.ratio * packed):
            why, hint = f"more than {self.caps.ratio} times", "generate such files in the build"
            if raw is None:
                raise InvalidSource(f"the archive swells {why}", hint=hint)
            refuse(raw, f"swells the archive {why}", hint)

    def link(self, raw: str, path: str, target: str) -> None:
        """Note a link's target, whose place is judged by `check_links`. Raises InvalidSource."""
        if not target:
            refuse(raw, "is a link without a target")
        _check_text(raw, target)
        if target.count("/") > DEPTH_MAX:
            refuse(raw, f"is a link more than {DEPTH_MAX} folders deep")
        if target.startswith("/"):
            refuse(raw, f"is a link to the absolute path {show(target)}", "make it a relative link")
        self.links[path] = target

    def check_links(self) -> None:
        """Refuse links that lead out of the tree or in a circle, other links on their way followed.

        A link to what isn't there (yet) is allowed, as long as it points inside.
        """
        steps = 0
        for path, target in self.links.items():
            hops, at = 0, path.split("/")[:-1]
            todo = target.split("/")[::-1]
            while todo:
                steps += 1
                if steps > STEPS_MAX or len(todo) > 4 * DEPTH_MAX:
                    refuse(path, "is one link too many", "leave links out")
                part = todo.pop()
                if part in ("", "."):
                    continue
                if part == "..":
                    if not at:
                        refuse(path, f"is a link that leaves the tree ({show(target)})")
                    at.pop()
                    continue
                onward = self.links.get("/".join([*at, part]))
                if onward is None:
                    at.append(part)
                    continue
                hops += 1
                if hops > HOPS_MAX:
                    refuse(path, "is a link in a circle")
                todo.extend(onward.split("/")[::-1])
