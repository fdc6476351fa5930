"""The Driver port over the keeper's socket."""

from hearth.drivers.remote.driver import RemoteDriver

__all__ = ["RemoteDriver"]
