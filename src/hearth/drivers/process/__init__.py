"""Plain processes of the user who started Hearth: nothing is isolated, nothing is limited. For development only."""

from hearth.drivers.process.driver import ProcessDriver

__all__ = ["ProcessDriver"]
