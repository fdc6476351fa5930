"""Binds the public port, starts the platform's processes, restarts them, drains them. No other logic."""
