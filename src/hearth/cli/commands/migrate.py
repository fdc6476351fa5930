"""migrate: bring a database to this program's schema, apart from `hearth up`."""

from __future__ import annotations

import click

from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, say
from hearth.cli.settings import settings_options
from hearth.config import environment, server_settings


@click.command()
@settings_options(("data_dir", "database_url"))
@common
@pass_options
def migrate(options: Options, /, **flags: str | None) -> None:
    """Bring the platform's database to the schema of this program; run on its host, before hearth up.

    `hearth up` does it by itself. This is for who runs migrations apart: as another user of the database, or before several processes start.
    Two at once are safe: one waits for the other. A database of a newer Hearth is refused, and nothing in it is changed.

    \b
    Example:
      hearth migrate --data-dir /var/lib/hearth
      HEARTH_DATABASE_URL=postgresql://hearth@db.example.com/hearth hearth migrate
    """
    settings = server_settings(flags, environment())
    from hearth.bootstrap.migrate import migrate_now

    before, schema = migrate_now(settings)
    if options.json:
        emit({"before": before, "schema": schema})
    elif before == schema:
        say(f"The database has schema {schema} already.")
    else:
        say(f"The database has schema {schema} now; it {f'had {before}' if before else 'was empty'} before.")
