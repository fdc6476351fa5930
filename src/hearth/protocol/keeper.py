"""Messages between the keeper and its clients: one JSON object per SOCK_SEQPACKET datagram, file descriptors beside it.

A request is ``{"n": number, "op": name, ...}``; its answer ``{"n": number, "ok": {...}}`` or ``{"n": number,
"error": {...}}``. The first request of a connection is ``hello``. Descriptors travel with the answers of
``start``, ``connect``, ``listen``, ``resolver`` and ``look_up``.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from typing import Any

from hearth.core.errors import ProtocolViolation
from hearth.core.finding import Finding, State
from hearth.core.launch import Attachment, Disk, Exit, Limits, Mount, Network, Probe, SandboxSpec, Usage
from hearth.core.refusals import Refusal

MESSAGE_MAX = 128 * 1024
"""Bytes of one message; below the kernel's default socket buffer, so that one datagram always fits."""
VERSION = 6
_REFUSAL_TEXT = 256


def pack(message: dict[str, Any]) -> bytes:
    """Raises ProtocolViolation when the message is too long to send."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MESSAGE_MAX:
        raise ProtocolViolation(f"a keeper message of {len(data)} bytes; at most {MESSAGE_MAX} are possible")
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """Raises ProtocolViolation when the bytes are no message."""
    try:
        message = json.loads(data)
    except ValueError as error:
        raise ProtocolViolation("a keeper message that is no JSON") from error
    if not isinstance(message, dict):
        raise ProtocolViolation("a keeper message that is no object")
    return message


def spec_to_data(spec: SandboxSpec) -> dict[str, Any]:
    return dataclasses.asdict(spec)


def spec_from_data(data: dict[str, Any]) -> SandboxSpec:
    """Raises ProtocolViolation when a field is missing, unknown or of another type."""
    try:
        values = dict(data)
        values["argv"] = tuple(map(_text, values["argv"]))
        values["env"] = tuple((_text(k), _text(v)) for k, v in values["env"])
        values["mounts"] = tuple(Mount(**mount) for mount in values["mounts"])
        values["limits"] = _limits(values["limits"])
        values["network"] = _network(values["network"])
        values["disk"] = None if values["disk"] is None else Disk(**values["disk"])
        return SandboxSpec(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"a sandbox that makes no sense: {error}") from error


def attachment_to_data(attachment: Attachment) -> dict[str, Any]:
    data = dataclasses.asdict(attachment)
    data["secrets"] = [(name, base64.b64encode(value).decode()) for name, value in attachment.secrets]
    return data


def attachment_from_data(data: dict[str, Any]) -> Attachment:
    """Raises ProtocolViolation when a field is missing, unknown or of another type."""
    try:
        return Attachment(
            artifact=_text(data["artifact"]),
            limits=_limits(data["limits"]),
            network=_network(data["network"]),
            secrets=tuple((_text(name), base64.b64decode(value)) for name, value in data["secrets"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"an attachment that makes no sense: {error}") from error


def probe_to_data(probe: Probe) -> dict[str, Any]:
    return {**dataclasses.asdict(probe), "enforces": sorted(probe.enforces)}


def probe_from_data(data: dict[str, Any]) -> Probe:
    return Probe(
        driver=data["driver"],
        usable=data["usable"],
        enforces=frozenset(data["enforces"]),
        missing=tuple(Finding(**{**found, "state": State(found["state"])}) for found in data["missing"]),
        facts=tuple((name, value) for name, value in data["facts"]),
    )


def exit_from_data(data: dict[str, Any]) -> Exit:
    return Exit(**data)


def usage_from_data(data: dict[str, Any]) -> Usage:
    return Usage(**data)


def refusal_from_data(data: dict[str, Any]) -> Refusal:
    """Raises ProtocolViolation when a field is missing, unknown, too long or of another type."""
    try:
        sandbox, protocol, target, address = (
            _text(data[name])[:_REFUSAL_TEXT] for name in ("sandbox", "protocol", "target", "address")
        )
        return Refusal(sandbox, protocol, target, int(data["port"]), address)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"a refusal that makes no sense: {error}") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("a text was expected")
    return value


def _limits(data: dict[str, Any]) -> Limits:
    found = Limits(**data)
    numbers = (found.memory, found.pids, found.tmp, found.open_files)
    if not all(isinstance(n, int) and n > 0 for n in numbers) or not 0 < float(found.cpu) <= 4096:
        raise ValueError("limits are positive numbers")
    return found


def _network(data: dict[str, Any]) -> Network:
    if data["mode"] not in ("none", "internet"):
        raise ValueError("an unknown network mode")
    return Network(
        mode=data["mode"],
        allow=tuple((_text(address), int(port)) for address, port in data["allow"]),
        hosts=tuple((_text(name), _text(address)) for name, address in data["hosts"]),
        targets=tuple((_text(host), int(port)) for host, port in data["targets"]),
    )
