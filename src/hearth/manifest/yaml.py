"""YAML with line numbers: a checked tree of nodes, and readers for single values.

The text is hostile: it is limited in size and depth, anchors (and so alias bombs) and tags of anybody's own are
refused, and nothing is ever constructed from it but strings, numbers and booleans that a caller asks for by type.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.reader import ReaderError

from hearth.core import limits
from hearth.core.errors import InvalidInput, InvalidManifest

DEPTH_MAX = 8
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``key: value`` of a mapping; `path` is its dotted name, such as ``scale.min``."""

    path: str
    key: Node
    value: Node


@dataclass(frozen=True, slots=True)
class Document:
    """One file. `name` is what errors call it."""

    name: str

    def fail(
        self,
        node: Node | None,
        message: str,
        hint: str | None = None,
        *,
        line: int | None = None,
        column: int | None = None,
        error: type[InvalidInput] = InvalidManifest,
        **details: Any,
    ) -> NoReturn:
        """Raise `error` for a place in the file: a node, or a line and column (from 1)."""
        if node is not None:
            line, column = node.start_mark.line + 1, node.start_mark.column + 1
        where = self.name if line is None else f"{self.name}:{line}"
        place = {"file": self.name, "line": line, "column": column}
        details.update({key: value for key, value in place.items() if value is not None})
        raise error(f"{where}: {message}", hint=hint, details=details)

    def parse(self, text: str) -> MappingNode:
        """The root of a text, which must be one document with one mapping. Raises InvalidManifest."""
        if len(text.encode("utf-8", "surrogatepass")) > limits.MANIFEST_MAX:
            self.fail(None, f"is larger than {limits.format_size(limits.MANIFEST_MAX)}", "keep data in files")
        try:
            self._scan(text)
            root = YAML(typ="safe", pure=True).compose(text)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
            problem = " ".join(str(error.problem or error.context or "can't be read").split())
            place = f" (column {column})" if column is not None else ""
            self.fail(
                None, f"no valid YAML: {problem}{place}", "check the indentation", line=line, column=column
            )
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
            self.fail(None, f"no valid YAML: a control character (column {column})", line=line, column=column)
        except (YAMLError, ValueError) as error:
            # ValueError: ruamel lets int() of a broken %YAML directive through.
            self.fail(None, f"no valid YAML: {' '.join(str(error).split())[:200]}")
        if root is None:
            self.fail(None, "there is nothing in it", "write at least name and runtime")
        if not isinstance(root, MappingNode):
            self.fail(root, "must be keys and values", "begin with a line such as: name: hello")
        return root

    def _scan(self, text: str) -> None:
        """Refuse what is costly or surprising before a tree is made of it."""
        depth = documents = 0
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, CollectionStartEvent):
                depth += 1
                documents += depth == 1
                if depth > DEPTH_MAX:
                    self._refuse(event, f"is nested more than {DEPTH_MAX} deep", "write it flatter")
            elif isinstance(event, CollectionEndEvent):
                depth -= 1
            elif isinstance(event, AliasEvent):
                self._refuse(event, "aliases (*name) are not read here", "write the value out")
            if isinstance(event, NodeEvent) and event.anchor is not None:
                self._refuse(event, "anchors (&name) are not read here", "write the value out")
            if documents > 1:
                self._refuse(event, "a second document begins", "keep one document in the file")

    def _refuse(self, event: Any, message: str, hint: str) -> NoReturn:
        self.fail(None, message, hint, line=event.start_mark.line + 1, column=event.start_mark.column + 1)

    def entries(
        self,
        node: Node,
        path: str,
        known: Collection[str] | None,
        later: Mapping[str, str] | None = None,
        later_error: type[InvalidInput] = InvalidInput,
    ) -> dict[str, Entry]:
        """The entries of a mapping by key.

        Args:
            node: what should be a mapping.
            path: its dotted name, empty for the root.
            known: the keys it may have; None allows any.
            later: keys that are known but whose feature isn't there yet, with what they are for.
            later_error: raised for those.
        """
        if not isinstance(node, MappingNode):
            self.fail(node, f"{path} must be keys and values", _example_of(path))
        found: dict[str, Entry] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, ScalarNode):
                self.fail(key_node, "a key must be a plain word")
            key = str(key_node.value)
            dotted = f"{path}.{key}" if path else key
            if key in found:
                first = found[key].key.start_mark.line + 1
                self.fail(
                    key_node, f"{dotted} is written twice, first on line {first}", "keep one", key=dotted
                )
            if later and key in later:
                self.fail(
                    key_node,
                    f"{dotted!r} is not yet supported: {later[key]}",
                    f"take {dotted} out",
                    error=later_error,
                    key=dotted,
                )
            if known is not None and key not in known:
                self.fail(key_node, f"unknown key {dotted[:80]!r}", nearest(key, known), key=dotted[:80])
            found[key] = Entry(dotted, key_node, value)
        return found

    def kind(self, entry: Entry) -> str:
        """``str int float bool null map seq``, or the tag itself."""
        tag = str(entry.value.tag)
        return tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag

    def text(self, entry: Entry, longest: int = 1024) -> str:
        """A string that isn't empty."""
        if self.kind(entry) != "str" or not isinstance(entry.value, ScalarNode):
            self.wrong(entry, "a text")
        value = str(entry.value.value)
        if not value.strip() or "\0" in value or len(value) > longest:
            self.wrong(entry, f"a text of 1 to {longest} characters")
        return value

    def choice(self, entry: Entry, choices: Collection[str]) -> str:
        """One of some words."""
        value = str(entry.value.value) if isinstance(entry.value, ScalarNode) else ""
        if value not in choices:
            self.wrong(entry, " or ".join(choices), nearest(value, choices) if value else None)
        return value

    def whole(self, entry: Entry, smallest: int, largest: int) -> int:
        """A whole number within bounds, both allowed."""
        if self.kind(entry) != "int":
            self.wrong(entry, "a whole number")
        return int(self._bounded(entry, self._number(entry), smallest, largest, str))

    def number(self, entry: Entry, smallest: float, largest: float) -> float:
        """A number within bounds, both allowed."""
        if self.kind(entry) not in ("int", "float"):
            self.wrong(entry, "a number")
        return float(self._bounded(entry, self._number(entry), smallest, largest, str))

    def size(self, entry: Entry, smallest: int, largest: int) -> int:
        """A size such as ``256MiB``, in bytes."""
        value = self._unit(entry, limits.parse_size, "a size such as 256MiB")
        return int(self._bounded(entry, value, smallest, largest, lambda size: limits.format_size(int(size))))

    def duration(self, entry: Entry, smallest: float, largest: float) -> float:
        """A duration such as ``30s``, in seconds."""
        value = self._unit(entry, limits.parse_duration, "a duration such as 30s or 5m")
        return float(self._bounded(entry, value, smallest, largest, lambda seconds: f"{seconds:g}s"))

    def wrong(self, entry: Entry, wanted: str, hint: str | None = None) -> NoReturn:
        """Raise InvalidManifest: this entry isn't what it must be."""
        kind = {"map": "keys and values", "seq": "a list", "null": "nothing"}.get(self.kind(entry))
        given = kind or repr(str(entry.value.value)[:60])
        self.fail(entry.value, f"{entry.path} must be {wanted}, not {given}", hint, key=entry.path)

    def _number(self, entry: Entry) -> float:
        text = str(entry.value.value).replace("_", "").lower()
        try:
            return int(text, 0) if self.kind(entry) == "int" and text[:2] in ("0x", "0o") else float(text)
        except (ValueError, OverflowError):  # such as `.inf`, or a tag that was forced with !!
            self.wrong(entry, "a plain number")

    def _unit(self, entry: Entry, parse: Callable[[str], float], wanted: str) -> float:
        if not isinstance(entry.value, ScalarNode) or self.kind(entry) not in ("str", "int", "float"):
            self.wrong(entry, wanted)
        try:
            return parse(str(entry.value.value))
        except (InvalidInput, OverflowError):
            self.wrong(
                entry, wanted, f"write a number and a unit: {entry.path.split('.')[-1]}: {wanted.split()[4]}"
            )

    def _bounded(
        self, entry: Entry, value: float, smallest: float, largest: float, show: Callable[[float], str]
    ) -> float:
        if not smallest <= value <= largest:  # also false for nan
            self.fail(
                entry.value,
                f"{entry.path} must be from {show(smallest)} to {show(largest)}, not {str(entry.value.value)[:40]}",
                "choose a value between these",
                key=entry.path,
            )
        return value


def nearest(word: str, known: Collection[str]) -> str:
    """A hint: the known word most like this one, or all of them."""
    close = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.55)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(known))}"


def _example_of(path: str) -> str | None:
    examples = {
        "scale": "scale: {min: 0, max: 10}",
        "env": "env: {GREETING: hello}",
        "files": "files: {tmp: 64MiB}",
        "build": "build: {command: make}",
    }
    return f"write it as: {examples[path]}" if path in examples else None
