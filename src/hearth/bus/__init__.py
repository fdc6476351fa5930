"""Hints between processes: the local bus on control's Unix socket."""

from hearth.bus.local import BusClient, BusServer

__all__ = ["BusClient", "BusServer"]
