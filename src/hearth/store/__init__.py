"""Rows: SQLAlchemy tables and queries on SQLite, migrated by Alembic."""

from hearth.store.store import Store

__all__ = ["Store"]
