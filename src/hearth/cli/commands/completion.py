"""completion: a script for the person's shell."""

from __future__ import annotations

import click

from hearth.cli.completion import SHELLS, script
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@common
@pass_options
@click.pass_context
def completion(ctx: click.Context, options: Options, shell: str) -> None:
    """Print a script by which bash, zsh or fish complete commands, options and names of functions.

    \b
    Example:
      echo 'eval "$(hearth completion bash)"' >> ~/.bashrc
      echo 'eval "$(hearth completion zsh)"' >> ~/.zshrc        # after compinit
      hearth completion fish > ~/.config/fish/completions/hearth.fish
    """
    text = script(ctx.find_root().command, shell)
    if options.json:
        emit({"shell": shell, "script": text})
    else:
        say(text)
