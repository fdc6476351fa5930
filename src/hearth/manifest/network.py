"""``network:`` of a function.yaml: a word, or an allowlist."""

from __future__ import annotations

from typing import Any

from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from hearth.core import limits
from hearth.core.errors import InvalidInput
from hearth.core.targets import parse_target
from hearth.manifest.yaml import Document, Entry

_EXAMPLE = "write it as: network: {internet: false, allow: [api.example.com:443]}"


def read_network(doc: Document, entry: Entry) -> dict[str, Any]:
    """`network` and `allow` of `core.function.FunctionConfig`.

    ``{allow: […]}`` without ``internet`` is an allowlist and nothing else.

    Raises:
        InvalidManifest: it is neither of the words nor an allowlist, or an entry can't be allowed.
    """
    if not isinstance(entry.value, MappingNode):
        return {"network": doc.choice(entry, ("none", "internet"))}
    found = doc.entries(entry.value, "network", ("internet", "allow"))
    if not found:
        doc.fail(entry.value, "network is empty", _EXAMPLE, key="network")
    internet = False
    if word := found.get("internet"):
        if doc.kind(word) != "bool" or not isinstance(word.value, ScalarNode):
            doc.wrong(word, "true or false", _EXAMPLE)
        internet = str(word.value.value).lower() == "true"
    allow = _allow(doc, found["allow"]) if "allow" in found else ()
    return {"network": "internet" if internet else "none", "allow": allow}


def _allow(doc: Document, entry: Entry) -> tuple[str, ...]:
    """The entries in their one way of writing, sorted."""
    if not isinstance(entry.value, SequenceNode):
        doc.wrong(entry, "a list of targets", _EXAMPLE)
    items = entry.value.value
    if len(items) > limits.ALLOW_MAX:
        doc.fail(
            entry.key,
            f"network.allow has {len(items)} entries, {limits.ALLOW_MAX} are allowed",
            "name ranges instead of addresses",
            key="network.allow",
        )
    allowed: set[str] = set()
    for item in items:
        text = str(item.value) if isinstance(item, ScalarNode) else ""
        try:
            allowed.add(str(parse_target(text)))
        except InvalidInput as error:
            doc.fail(item, f"network.allow: {error.message}", error.hint, key="network.allow")
    return tuple(sorted(allowed))
