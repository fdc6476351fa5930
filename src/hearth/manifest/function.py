"""function.yaml: text in, a checked `FunctionConfig` out.

Every key is enforced or refused. A known key whose feature isn't there yet is refused too, never stored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from hearth.core import limits
from hearth.core.errors import InvalidManifest, InvalidName, NotYetSupported
from hearth.core.function import Auth, FunctionConfig, Scale
from hearth.core.names import ISOLATION_RUNTIME, check_function, check_secret
from hearth.manifest.network import read_network
from hearth.manifest.yaml import Document, Entry, nearest

FILE = "function.yaml"

KNOWN = (
    "name", "runtime", "handler", "memory", "cpu", "timeout", "init_timeout", "concurrency",
    "scale", "env", "secrets", "network", "auth", "files", "build", "isolation_runtime",
)  # fmt: skip
LATER = {
    "image": "container images",
    "health": "health checks of containers",
    "domains": "own domains",
    "cors": "CORS answers",
    "stream": "settings of streamed answers",
    "limits": "rate limits",
    "on_success": "follow-up calls",
    "callback": "callbacks",
    "triggers": "schedules and queues",
    "async": "settings of async calls",
}
RUNTIMES = ("go", "python", "node", "container")
_PINNED = re.compile(r"(python)(3|3\.[0-9]{1,3})?|(node)([0-9]{1,3})?|(go)(1\.[0-9]{1,3})?")
_HANDLERS = {
    "python": (re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+"), "module.attribute, such as handler.handler"),
    "node": (
        re.compile(r"(?!/)(?!.*(^|/)\.\.(/|$))[\w@./-]+\.[A-Za-z_$][\w$]*"),
        "file.export, such as handler.handler",
    ),
    "go": (re.compile(r"[A-Z]\w*"), "the name of an exported function, such as Handler"),
}
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(text: str, file: str = FILE) -> FunctionConfig:
    """Check the text of a function.yaml.

    Args:
        text: the file's content.
        file: what errors call the file.

    Raises:
        InvalidManifest: with ``details`` file, line, column (from 1) and key where they are known.
        NotYetSupported: a known key whose feature isn't there yet; same details.
    """
    doc = Document(file)
    root = doc.parse(text)
    entries = doc.entries(root, "", KNOWN, LATER, NotYetSupported)
    for required, example in (("name", "hello"), ("runtime", "python")):
        if required not in entries:
            doc.fail(
                None, f"{required} is missing", f"add a line such as: {required}: {example}", key=required
            )
    name = _name(doc, entries["name"])
    runtime, runtime_version = _runtime(doc, entries["runtime"])
    values: dict[str, Any] = {"concurrency": limits.CONCURRENCY_DEFAULT[runtime]}
    if entry := entries.get("handler"):
        values["handler"] = _handler(doc, entry, runtime)
    if entry := entries.get("memory"):
        values["memory"] = doc.size(entry, limits.MEMORY_MIN, limits.MEMORY_MAX)
    if entry := entries.get("cpu"):
        values["cpu"] = doc.number(entry, limits.CPU_MIN, limits.CPU_MAX)
    if entry := entries.get("timeout"):
        values["timeout"] = doc.duration(entry, limits.TIMEOUT_MIN, limits.TIMEOUT_MAX)
    if entry := entries.get("init_timeout"):
        values["init_timeout"] = doc.duration(entry, limits.TIMEOUT_MIN, limits.INIT_TIMEOUT_MAX)
    if entry := entries.get("concurrency"):
        values["concurrency"] = doc.whole(entry, 1, limits.CONCURRENCY_MAX)
    if entry := entries.get("scale"):
        values["scale"] = _scale(doc, entry)
    if entry := entries.get("env"):
        values["env"] = _env(doc, entry)
    if entry := entries.get("secrets"):
        values["secrets"] = _secrets(doc, entry, values.get("env", ()))
    if entry := entries.get("network"):
        values |= read_network(doc, entry)
    if entry := entries.get("auth"):
        values["auth"] = _auth(doc, entry)
    written: list[str] = [key for key in ("memory", "cpu", "network") if key in entries]
    memory = values.get("memory", limits.MEMORY_DEFAULT)
    values["tmp"] = min(limits.TMP_DEFAULT, memory)  # /tmp counts towards memory
    if (entry := entries.get("files")) and (tmp := doc.entries(entry.value, "files", ("tmp",)).get("tmp")):
        values["tmp"] = doc.size(tmp, limits.TMP_MIN, limits.TMP_MAX)
        written.append("tmp")
        if values["tmp"] > memory:
            doc.fail(
                tmp.value,
                f"files.tmp is larger than memory ({limits.format_size(memory)}), towards which it counts",
                "raise memory or lower files.tmp",
                key="files.tmp",
            )
    if (entry := entries.get("build")) and (
        command := doc.entries(entry.value, "build", ("command",)).get("command")
    ):
        values["build_command"] = doc.text(command, 8192)
    if entry := entries.get("isolation_runtime"):
        values["isolation_runtime"] = _isolation_runtime(doc, entry)
    return FunctionConfig(
        name=name, runtime=runtime, runtime_version=runtime_version, written=tuple(sorted(written)), **values
    )


def read_file(folder: Path) -> FunctionConfig:
    """Check the function.yaml of a folder. Raises what `read` does, InvalidManifest also when there is none."""
    path = folder / FILE
    try:
        with path.open("rb") as stream:
            data = stream.read(limits.MANIFEST_MAX + 1)
    except FileNotFoundError:
        raise InvalidManifest(
            f"there is no {FILE}", hint=f"put {FILE} at the top of the project", details={"file": FILE}
        ) from None
    except OSError as error:
        raise InvalidManifest(
            f"{FILE} can't be read: {error.strerror}", hint="it must be a plain file", details={"file": FILE}
        ) from None
    try:
        return read(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        Document(FILE).fail(None, "is not UTF-8 text", "save it as UTF-8", line=line)


def _name(doc: Document, entry: Entry) -> str:
    name = doc.text(entry)
    try:
        return check_function(name)
    except InvalidName as error:
        doc.fail(entry.value, error.message, error.hint, key="name")


def _runtime(doc: Document, entry: Entry) -> tuple[str, str]:
    value = doc.text(entry)
    if value == "container":
        doc.fail(
            entry.value,
            "runtime container is not yet supported",
            "use go, python or node",
            error=NotYetSupported,
            key="runtime",
        )
    match = _PINNED.fullmatch(value)
    if match is None:
        word = re.sub(r"[\d.]+$", "", value.lower())
        hint = nearest({"nodejs": "node", "golang": "go"}.get(word, word), RUNTIMES)
        doc.wrong(entry, "go, python or node, with or without a version such as python3.12 or node22", hint)
    runtime = match[1] or match[3] or match[5]
    version = match[2] or match[4] or match[6] or ""
    return runtime, version


def _handler(doc: Document, entry: Entry, runtime: str) -> str:
    value = doc.text(entry, 256)
    pattern, shape = _HANDLERS[runtime]
    if pattern.fullmatch(value) is None:
        doc.wrong(entry, f"{shape} for {runtime}", "leave it out to have it detected")
    return value


def _isolation_runtime(doc: Document, entry: Entry) -> str:
    value = doc.text(entry, 64)
    if ISOLATION_RUNTIME.fullmatch(value) is None:
        doc.wrong(
            entry, "the name of a runtime of docker's, such as runsc", "ask the operator which there are"
        )
    return value


def _scale(doc: Document, entry: Entry) -> Scale:
    found = doc.entries(entry.value, "scale", ("min", "max", "idle", "queue"))
    values: dict[str, Any] = {}
    if low := found.get("min"):
        values["min"] = doc.whole(low, 0, limits.SCALE_MAX_MAX)
    if high := found.get("max"):
        values["max"] = doc.whole(high, 1, limits.SCALE_MAX_MAX)
    if idle := found.get("idle"):
        values["idle"] = doc.duration(idle, limits.IDLE_MIN, limits.IDLE_MAX)
    if queue := found.get("queue"):
        values["queue"] = doc.whole(queue, 0, limits.QUEUE_MAX)
    scale = Scale(**values)
    if scale.min > scale.max:
        at = (low or entry).value
        doc.fail(
            at,
            f"scale.min ({scale.min}) is above scale.max ({scale.max})",
            "raise scale.max",
            key="scale.min",
        )
    return scale


def _env(doc: Document, entry: Entry) -> tuple[tuple[str, str], ...]:
    found = doc.entries(entry.value, "env", None)
    if len(found) > limits.ENV_NAMES_MAX:
        doc.fail(entry.key, f"env has {len(found)} names, {limits.ENV_NAMES_MAX} are allowed", key="env")
    pairs: list[tuple[str, str]] = []
    total = 0
    for name, item in found.items():
        if _ENV_NAME.fullmatch(name) is None:
            doc.fail(
                item.key,
                f"{name[:60]!r} is no name of an environment variable",
                "use A-Z, 0-9 and _",
                key="env",
            )
        if name == "PORT" or name.startswith("HEARTH_"):
            doc.fail(item.key, f"env.{name} is set by Hearth", "choose another name", key=item.path)
        if not isinstance(item.value, ScalarNode) or doc.kind(item) == "null":
            doc.wrong(item, "a text", f'write env: {{{name}: ""}} for an empty one')
        value = str(item.value.value)  # as written: 8080, true and 1.0 stay those characters
        if "\0" in value:
            doc.wrong(item, "a text without NUL")
        total += len(name) + len(value.encode("utf-8", "surrogatepass"))
        pairs.append((name, value))
    if total > limits.ENV_BYTES_MAX:
        doc.fail(
            entry.key,
            f"env is larger than {limits.format_size(limits.ENV_BYTES_MAX)}",
            "use files",
            key="env",
        )
    return tuple(sorted(pairs))


def _secrets(doc: Document, entry: Entry, env: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    if not isinstance(entry.value, SequenceNode):
        doc.wrong(entry, "a list of names", "write it as: secrets: [STRIPE_KEY]")
    plain, names = dict(env), dict[str, Node]()
    for item in entry.value.value:
        name = str(item.value) if isinstance(item, ScalarNode) else ""
        try:
            check_secret(name)
        except InvalidName as error:
            doc.fail(item, error.message, error.hint, key="secrets")
        if name in names:
            doc.fail(item, f"secrets names {name} twice", "keep one", key="secrets")
        if name in plain:
            doc.fail(item, f"{name} stands under env and under secrets", "keep one", key="secrets")
        names[name] = item
    if len(names) > limits.SECRETS_NAMED_MAX:
        doc.fail(
            entry.key,
            f"secrets has {len(names)} names, {limits.SECRETS_NAMED_MAX} are allowed",
            "put several values into one secret, as JSON",
            key="secrets",
        )
    return tuple(sorted(names))


def _auth(doc: Document, entry: Entry) -> Auth:
    if isinstance(entry.value, MappingNode):
        doc.fail(
            entry.value,
            "auth by JWT or webhook is not yet supported",
            "write auth: public, auth: key or auth: members",
            error=NotYetSupported,
            key="auth",
        )
    return cast(Auth, doc.choice(entry, ("public", "key", "members")))
