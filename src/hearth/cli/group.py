"""A group of commands that knows what a misspelt name may have meant."""

from __future__ import annotations

import difflib

import click


class HintedUsageError(click.UsageError):
    """A usage error with a hint of its own."""

    def __init__(self, message: str, hint: str, ctx: click.Context) -> None:
        super().__init__(message, ctx)
        self.hint = hint


class Group(click.Group):
    def known_names(self, ctx: click.Context) -> list[str]:
        """Every name that a command goes by."""
        return self.list_commands(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not self.invoke_without_command and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None
        if not known:
            near = difflib.get_close_matches(name, self.known_names(ctx), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"see: {ctx.command_path} --help"
            raise HintedUsageError(f"there is no command {name!r}", hint, ctx)
        return super().resolve_command(ctx, args)
