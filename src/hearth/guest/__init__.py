"""The host side of the guest protocol: one connection per instance, many requests at once."""

from hearth.guest.factory import StreamGuests

__all__ = ["StreamGuests"]
