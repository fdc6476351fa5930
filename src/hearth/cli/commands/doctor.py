"""doctor: what this machine can enforce, what is missing, and the command that mends it."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import click

from hearth.cli.errors import FAILED
from hearth.cli.options import Options, json_option, pass_options
from hearth.cli.output import emit, say, table
from hearth.cli.settings import settings_options
from hearth.cli.text import safe
from hearth.config import environment, server_settings
from hearth.core.finding import Finding, State
from hearth.core.settings import SETTINGS

FIELDS = (
    "data_dir",
    "database_url",
    "host",
    "port",
    "isolation",
    "isolation_runtime",
    "docker_socket",
    "images",
    "key_file",
)
_UP = "hearth up"
_STATES = {State.OK: "ok", State.NOTE: "note", State.NOT_HELD: "not held", State.REFUSED: "refused"}


@click.command()
@settings_options(FIELDS)
@json_option
@pass_options
def doctor(options: Options, /, **flags: str | None) -> None:
    """Tell what this machine can enforce, what is missing, and the command that mends it.

    The flags, and the HEARTH_ variables, are those of `hearth up`. Nothing is changed: sandboxes are made to try what holds, and
    removed. The exit code is 0 when `hearth up` would hold all that it promises, 1 when it would not, or would refuse to start.

    \b
    Example:
      hearth doctor
      hearth doctor --data-dir ./state --port 9000 --json
    """
    settings = server_settings(flags, environment())
    from hearth.bootstrap.doctor import examine

    findings = [replace(one, mend=_pasted(one.mend, flags)) for one in examine(settings)]
    if options.json:
        emit([{"name": f.name, "state": f.state, "says": f.says, "mend": f.mend or None} for f in findings])
    else:
        _show(findings)
    if not all(finding.holds for finding in findings):
        raise click.exceptions.Exit(FAILED)


def _show(findings: list[Finding]) -> None:
    table(["what", "state", "found"], [(f.name, _STATES[f.state], f.says) for f in findings])
    mends: dict[str, dict[str, None]] = {}
    for finding in findings:
        if finding.mend:
            mends.setdefault(finding.mend, {})[finding.name] = None
    if mends:  # not in the table: a terminal folds its cells, and half a command can't be pasted
        say("\nWhat mends it:")
        for mend, names in mends.items():
            say(f"\n  # {safe(', '.join(names))}\n  {safe(mend)}")
    say(f"\n{_verdict(findings)}")


def _verdict(findings: list[Finding]) -> str:
    refused = [finding.name for finding in findings if finding.state is State.REFUSED]
    lost = [finding.name for finding in findings if finding.state is State.NOT_HELD]
    if refused:
        return f"hearth up refuses to start: {', '.join(refused)}."
    if lost:
        return f"hearth up starts, with a warning. Not held: {', '.join(lost)}."
    return "hearth up holds all that it promises."


def _pasted(mend: str, flags: Mapping[str, str | None]) -> str:
    """A command with `hearth up` in it as this person would start it: this program, by its path where PATH lacks it, and the
    settings that were given, but for those that the command has itself.

    The environment's are written down where another program is between: sudo and systemd hand on little of it.
    """
    before, found, after = mend.partition(_UP)
    if not found:
        return mend
    words = []
    for setting in SETTINGS:
        value = flags.get(setting.field) or (environment().get(setting.env) if before else None)
        if value and setting.flag not in after.split():
            secret = setting.field == "database_url"  # its password is not for a screen
            words += [setting.flag, f'"${setting.env}"' if secret else shlex.quote(value)]
    return f"{before}{' '.join([_program(elsewhere=bool(before)), 'up', *words])}{after}"


def _program(elsewhere: bool) -> str:
    """This program as a shell finds it.

    Args:
        elsewhere: another program starts it, which looks in other places (sudo's secure_path, systemd's).
    """
    path = Path(sys.argv[0]).absolute()
    found = shutil.which(path.name)
    known = found is not None and Path(found).absolute() == path
    return path.name if known and not elsewhere else shlex.quote(str(path))
