"""The entry of `hearth` and `serverless-cli`."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hearth import __version__
from hearth.cli import errors
from hearth.cli.group import Group, HintedUsageError
from hearth.cli.options import COMPLETING, common
from hearth.config import environment
from hearth.core.errors import HearthError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Each command's module and the name in it. Modules are imported when their command runs, or for a list of all.
COMMANDS = {
    "up": "up:up",
    "doctor": "doctor:doctor",
    "images": "images:images",
    "migrate": "migrate:migrate",
    "register": "accounts:register",
    "login": "accounts:login",
    "logout": "accounts:logout",
    "whoami": "accounts:whoami",
    "use": "accounts:use",
    "password": "password:password",
    "sessions": "sessions:sessions",
    "keys": "keys:keys",
    "secrets": "secrets:secrets",
    "users": "users:users",
    "create-function": "create:create_function",
    "deploy-function": "deploy:deploy_function",
    "list": "functions:list_functions",
    "describe": "functions:describe",
    "versions": "versions:versions",
    "rollback": "versions:rollback",
    "alias": "versions:alias",
    "invoke": "invoke:invoke",
    "logs": "logs:logs",
    "stats": "stats:stats",
    "delete": "functions:delete",
    "completion": "completion:completion",
}
# Short names; completed as the long ones are.
ALIASES = {"new": "create-function", "deploy": "deploy-function"}


class LazyGroup(Group):
    """Knows its commands by name and imports them when asked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def known_names(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *ALIASES]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        short = [CompletionItem(name) for name in ALIASES if name.startswith(incomplete)]
        return [*super().shell_complete(ctx, incomplete), *(short if incomplete else [])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(ALIASES.get(cmd_name, cmd_name))
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(f"hearth.cli.commands.{module}"), attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{place} is no command")
        return found


@click.group(
    cls=LazyGroup, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@common
@click.version_option(__version__, prog_name="hearth", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Run functions in Go, Python and Node.js on your own machine.

    \b
    Example:
      hearth up                          # in one terminal: the platform
      hearth register --email a@example.com
      hearth create-function -n hello    # in another: a function
      hearth deploy-function -n hello
      hearth invoke hello
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Never raises what a person can cause."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    completing = environment().get(COMPLETING)
    try:
        if completing is not None:
            from hearth.cli.completion import answer

            return answer(cli, completing)
        with cli.make_context(_program(), given) as ctx:
            cli.invoke(ctx)
        sys.stdout.flush()
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except HearthError as error:
        return _report(as_json, error.code, error.message, error.hint, error.details, errors.exit_code(error))
    except click.ClickException as error:
        message, hint = _usage(error)
        return _report(as_json, "usage", message, hint, {}, errors.USAGE)
    except BrokenPipeError:
        return _leave_quietly()
    except (KeyboardInterrupt, click.Abort):
        return errors.INTERRUPTED
    except OSError as error:
        name = f"{error.filename}: " if error.filename is not None else ""
        return _report(as_json, "os_error", f"{name}{error.strerror or error}", None, {}, errors.FAILED)
    return errors.OK


def _program() -> str:
    name = Path(sys.argv[0]).name
    return name if name == "serverless-cli" else "hearth"


def _usage(error: click.ClickException) -> tuple[str, str]:
    message = error.format_message()
    message = message[:1].lower() + message[1:]
    if isinstance(error, HintedUsageError):
        return message, error.hint
    if isinstance(error, click.NoSuchOption):
        near = f"did you mean {error.possibilities[0]}?" if error.possibilities else None
        message = f"there is no option {error.option_name}"
        return message, near or f"see: {_path(error)} --help"
    return message, f"see: {_path(error)} --help"


def _path(error: click.ClickException) -> str:
    ctx = error.ctx if isinstance(error, click.UsageError) else None
    return ctx.command_path if ctx is not None else "hearth"


def _report(
    as_json: bool, code: str, message: str, hint: str | None, details: dict[str, object], status: int
) -> int:
    line = errors.error_json(code, message, hint, details) if as_json else errors.error_line(message, hint)
    with contextlib.suppress(OSError):  # nobody is there to be told
        click.echo(line, err=True)
    return status


def _leave_quietly() -> int:
    """Whoever read our output has left; Python's own flush at exit is not to complain of it."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return errors.BROKEN_PIPE
