"""Completing words in a shell: what the shells' scripts ask for with every Tab.

The scripts and the protocol are click's (its page "Shell Completion"): a script sets ``_HEARTH_COMPLETE`` and runs this
program, which prints what may come next.
"""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from hearth.cli.options import COMPLETING

PROGRAMS = ("hearth", "serverless-cli")


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """Bash takes ``--option=value`` for three words."""
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], incomplete


class _Whole(ShellComplete):
    """Zsh and fish take ``--option=value`` for one word, and put a completion in the place of it all."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if not (equals and option.startswith("--")):
            return found
        return [CompletionItem(f"{option}={item.value}", item.type, item.help) for item in found]


class _Zsh(_Whole, ZshComplete):
    pass


class _Fish(_Whole, FishComplete):
    pass


SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def script(command: click.Command, shell: str) -> str:
    """What a person's shell reads at its start, for both names of this program."""
    sources = [SHELLS[shell](command, {}, program, COMPLETING).source() for program in PROGRAMS]
    if shell != "zsh":
        return "\n".join(sources)
    # A file of zsh's fpath is one function, so it is one script that serves both names.
    first, other = sources[0], " ".join(PROGRAMS)
    first = first.replace(f"#compdef {PROGRAMS[0]}\n", f"#compdef {other}\n")
    return first.replace(f"_completion {PROGRAMS[0]}\n", f"_completion {other}\n")


def answer(command: click.Command, instruction: str) -> int:
    """Print what may come next, as ``bash_complete`` (zsh, fish) asks; returns the exit code."""
    shell, _, what = instruction.partition("_")
    if shell not in SHELLS or what != "complete":
        return 1
    found = SHELLS[shell](command, {}, PROGRAMS[0], COMPLETING).complete()
    if found:
        click.echo(found)
    return 0
