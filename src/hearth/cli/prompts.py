"""Asking a person, and reading passwords without showing them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from hearth.core import limits
from hearth.core.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])


def password_options(command: F) -> F:
    """Add --password and --password-stdin."""
    command = click.option(
        "--password-stdin", is_flag=True, help="Read the password from the first line of standard input."
    )(command)
    return click.option("--password", metavar="P", help="The password; without it you are asked.")(command)


def read_password(given: str | None, from_stdin: bool, *, new: bool, label: str = "Password") -> str:
    """The password by whichever way was chosen; a new one is asked for twice.

    Raises:
        click.UsageError: both ways were chosen, or nobody can be asked.
        InvalidInput: standard input has ended.
    """
    if given is not None and from_stdin:
        raise click.UsageError("--password and --password-stdin exclude each other")
    if given is not None:
        return given
    if from_stdin:
        return line_of_stdin()
    need_terminal("there is no password", "add --password-stdin and pipe it in")
    if new:
        label = f"{label} ({limits.PASSWORD_MIN} characters or more)"
    answer: str = click.prompt(label, hide_input=True, confirmation_prompt=new, err=True)
    return answer


def line_of_stdin() -> str:
    """The next line of standard input without its end. Raises InvalidInput when there is none."""
    line = sys.stdin.readline()
    if not line:
        raise InvalidInput(
            "standard input ended before the password", hint="pipe the password in, with its newline"
        )
    return line.rstrip("\r\n")


def ask(label: str, given: str | None, missing: str, hint: str) -> str:
    """What was given, else what a person answers. Raises InvalidInput when nobody can be asked."""
    if given is not None:
        return given
    need_terminal(missing, hint)
    answer: str = click.prompt(label, err=True)
    return answer


def confirm(question: str, *, hint: str) -> bool:
    """A yes or no from a person. Raises InvalidInput when nobody can be asked."""
    need_terminal("nobody is there to confirm", hint)
    return click.confirm(question, err=True)


def need_terminal(message: str, hint: str) -> None:
    """Raise InvalidInput unless standard input is a terminal."""
    if not sys.stdin.isatty():
        raise InvalidInput(message, hint=hint)
