"""The service units of deploy/systemd, read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SYSTEM = ROOT / "deploy" / "systemd" / "hearth.service"
USER = ROOT / "deploy" / "systemd" / "user" / "hearth.service"


def unit(path: Path) -> dict[str, list[str]]:
    """A unit's lines by name, whatever their section; a name may come several times (systemd.syntax(7))."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def dropped_capabilities() -> list[str]:
    """What the system's unit takes away, in small letters and without `cap_`."""
    return [
        name.removeprefix("CAP_").lower()
        for value in unit(SYSTEM)["CapabilityBoundingSet"]
        for name in value.removeprefix("~").split()
    ]
