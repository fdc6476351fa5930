"""Sandboxes as containers, through the Engine API of a Docker daemon."""

from hearth.drivers.docker.driver import DockerDriver

__all__ = ["DockerDriver"]
