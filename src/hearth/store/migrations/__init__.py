"""Alembic's scripts. Each is final once released; `docs/contributing/new-migration.md` says how the next one is made."""
