"""Alembic's entry: runs the scripts on the connection, and in the transaction, that `hearth.store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from hearth.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite's DDL is transactional when Python's sqlite3 is kept from committing
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
