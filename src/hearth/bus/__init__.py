"""Hints between processes: the local bus on control's Unix socket."""
