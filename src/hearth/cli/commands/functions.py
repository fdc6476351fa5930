"""list, describe, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hearth.cli.context import connect, namespace_of, resolve
from hearth.cli.errors import FAILED
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, facts, say, table, warn
from hearth.cli.prompts import confirm
from hearth.cli.text import day, safe_lines, seconds
from hearth.core.limits import format_size

if TYPE_CHECKING:
    from hearth.wire.models import FailureItem, VersionItem

CALLERS = {
    "public": "everybody",
    "key": "who shows an API key of it (X-Hearth-Key)",
    "members": "members of the namespace",
}


@click.command(name="list")
@common
@pass_options
def list_functions(options: Options) -> None:
    """List the functions of a namespace.

    \b
    Example:
      hearth list
      hearth list --json
    """
    with connect(options) as client:
        namespace = namespace_of(options, client)
        found = list(client.functions(namespace))
    if options.json:
        emit([item.model_dump() for item in found])
        return
    if not found:
        say(
            f"There is no function in {namespace} yet that you may see. Make one: hearth create-function -n hello"
        )
        return
    table(
        ("name", "runtime", "version", "status", "url", "last deploy"),
        [
            (
                item.name,
                item.runtime,
                str(item.version) if item.version is not None else "-",
                item.status,
                item.url,
                day(item.deployed_at),
            )
            for item in found
        ],
    )


@click.command()
@click.argument("name", type=FUNCTION)
@common
@pass_options
def describe(options: Options, name: str) -> None:
    """Show a function: its state, its settings, who may call it.

    \b
    Example:
      hearth describe hello
    """
    with connect(options) as client:
        found = client.function(*resolve(options, client, name))
    if options.json:
        emit(found.model_dump())
        return
    shown = found.live or found.latest
    facts(
        [
            ("name", f"{found.namespace}/{found.name}"),
            ("status", found.status),
            ("url", found.url),
            ("may call", f"{CALLERS.get(found.auth, found.auth)} (auth: {found.auth})"),
            ("live", _version(found.live) if found.live is not None else "no version yet"),
            ("latest", _version(found.latest) if found.latest is not None else ""),
            ("last deploy", day(found.deployed_at)),
            *(_settings(shown) if shown is not None else []),
        ]
    )
    for warning in found.warnings:
        warn(warning)
    if found.latest is not None and found.latest.failure is not None:
        _show_failure(found.latest.number, found.latest.failure)


@click.command()
@click.argument("name", type=FUNCTION)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@common
@pass_options
def delete(options: Options, name: str, yes: bool) -> None:
    """Delete a function with all its versions.

    \b
    Example:
      hearth delete hello --yes
    """
    with connect(options) as client:
        namespace, function = resolve(options, client, name)
        if not yes:
            client.function(namespace, function)  # not found: said before anybody is asked
            if not confirm(f"Delete {namespace}/{function} with all its versions?", hint="add --yes"):
                say("Nothing is deleted.")
                raise click.exceptions.Exit(FAILED)
        client.delete_function(namespace, function)
    if options.json:
        emit({"namespace": namespace, "name": function, "deleted": True})
    else:
        say(f"Deleted {namespace}/{function}.")


def _version(version: VersionItem) -> str:
    return f"{version.number} ({version.state}, {version.toolchain or version.runtime}, {day(version.created_at)})"


def _settings(version: VersionItem) -> list[tuple[str, str]]:
    config: dict[str, Any] = version.config
    scale: dict[str, Any] = config.get("scale") or {}
    pairs = [
        ("handler", version.handler or str(config.get("handler") or "")),
        ("memory", format_size(int(config["memory"])) if "memory" in config else ""),
        ("cpu", f"{config['cpu']:g}" if "cpu" in config else ""),
        ("timeout", seconds(config["timeout"]) if "timeout" in config else ""),
        ("concurrency", str(config.get("concurrency", ""))),
        ("scale", f"{scale['min']} to {scale['max']}, idle {seconds(scale['idle'])}" if scale else ""),
        ("network", _network(config)),
        ("env", ", ".join(str(pair[0]) for pair in config.get("env") or ())),
        ("secrets", ", ".join(map(str, config.get("secrets") or ()))),
    ]
    return [(name, value) for name, value in pairs if value]


def _network(config: dict[str, Any]) -> str:
    """Whom it may reach, in words."""
    word, allow = str(config.get("network", "")), ", ".join(map(str, config.get("allow") or ()))
    if not allow:
        return word
    return f"internet and {allow}" if word == "internet" else f"only {allow}"


def _show_failure(number: int, failure: FailureItem) -> None:
    say()
    say(f"version {number} failed ({failure.code}):")
    for line in safe_lines(failure.message) + safe_lines(failure.tail.rstrip()):
        if line:
            say(f"  {line}")
