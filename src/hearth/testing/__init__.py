"""Fakes that tests of every room share. Nothing of the platform imports them."""
