"""Rows: SQLAlchemy tables and queries on SQLite, migrated by Alembic. `hearth.store.store.Store` is what is wired."""
