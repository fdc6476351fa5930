"""Living beside dockerd, which sets the FORWARD policy to DROP: our own accept can't override another table's drop.

Docker keeps the chain DOCKER-USER for others' rules, and evaluates it first. Our refusals still hold, because they
stand in a table of their own.
"""

from __future__ import annotations

import subprocess

from hearth.core.errors import SandboxFailed

CHAIN = "DOCKER-USER"
_TIMEOUT = 20.0  # seconds
_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


def present() -> bool:
    """Whether the chain is there."""
    return _iptables("-S", CHAIN)


def admit(prefix: str) -> bool:
    """Let traffic of links beginning with `prefix` pass where the chain exists; returns whether it does.

    Raises:
        SandboxFailed: the chain is there, but iptables refused.
    """
    if not present():
        return False
    for rule in _rules(prefix):
        if not _iptables("-C", CHAIN, *rule) and not _iptables("-I", CHAIN, *rule):
            raise SandboxFailed(
                f"iptables would not add a rule to {CHAIN}",
                hint=f"run: iptables -I {CHAIN} {' '.join(rule)}",
            )
    return True


def withdraw(prefix: str) -> None:
    """Remove our rules, as often as they are there."""
    for rule in _rules(prefix):
        while _iptables("-D", CHAIN, *rule):
            pass


def _rules(prefix: str) -> tuple[tuple[str, ...], ...]:
    return (("-i", f"{prefix}+", "-j", "ACCEPT"), ("-o", f"{prefix}+", "-j", "ACCEPT"))


def _iptables(*arguments: str) -> bool:
    """Whether iptables did it; False also where there is no iptables, and so no dockerd that uses it."""
    try:
        done = subprocess.run(
            ["iptables", "-w", "5", *arguments],
            env=_ENV,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
