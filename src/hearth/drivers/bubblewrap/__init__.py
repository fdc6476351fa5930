"""Sandboxes by bubblewrap: namespaces, control groups, seccomp, a host uid each. See docs/explanation/isolation.md."""

from hearth.drivers.bubblewrap.driver import BubblewrapDriver

__all__ = ["BubblewrapDriver"]
