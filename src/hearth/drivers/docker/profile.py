"""Docker's seccomp profile with what bubblewrap's two filters say, from the same tables (`drivers.common.seccomp`).

A profile is one filter: of several rules for one call the one that allows wins. So what the second filter forbids is left out of what is
allowed here: a call with a forbidden value meets no rule and gets the default. "Any value but these" is said by masks,
since two comparisons of one argument can't stand in one rule (seccomp_rule_add(3)).
https://docs.docker.com/engine/security/seccomp/
"""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Iterable
from functools import cache
from typing import Any

from hearth.drivers.common import seccomp as tables

_ALLOW, _ERRNO, _KILL = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"
_MASKED = "SCMP_CMP_MASKED_EQ"
_ARCHITECTURES = {
    "x86_64": "SCMP_ARCH_X86_64",
    "aarch64": "SCMP_ARCH_AARCH64",
    "riscv64": "SCMP_ARCH_RISCV64",
}
_NUMBERS = 600  # system calls have lower numbers (include/uapi/asm-generic/unistd.h)
_BY_ARGUMENT = ("ioctl", "prctl", "setsockopt", *(name for name, _ in tables.CHMODS))


@cache
def text() -> str:
    """The profile as it is passed to the daemon. Raises ImportError or RuntimeError when libseccomp is missing."""
    return json.dumps(profile(platform.machine(), known_calls()), separators=(",", ":"))


def known_calls() -> tuple[str, ...]:
    """Every system call of this architecture that this libseccomp knows."""
    import pyseccomp as sc

    names = []
    for number in range(_NUMBERS):
        try:
            name = sc.resolve_syscall(sc.Arch.NATIVE, number)
        except ValueError:
            continue
        if name:
            names.append(name.decode() if isinstance(name, bytes) else str(name))
    return tuple(names)


def profile(machine: str, known: Iterable[str]) -> dict[str, Any]:
    """The profile as data.

    Args:
        machine: as uname(2) says it.
        known: names of calls; those that no table has get ENOSYS by name, since older daemons know no other default than EPERM,
            with which libraries don't fall back.
    """
    always = [name for name in tables.ALLOWED.split() if name not in _BY_ARGUMENT]
    refused = tables.REFUSED.split()
    rules = [_rule(always), _refusal(refused, errno.EPERM)]
    rules.append(_rule(["clone"], _masked(0, tables.NEW_NAMESPACES, 0)))
    rules += [_rule(["personality"], _masked(0, tables.WORD, persona)) for persona in (0, tables.WORD)]
    families = (tables.AF_UNIX, tables.AF_INET, tables.AF_INET6)
    rules += [_rule(["socket"], _masked(0, tables.WORD, family)) for family in families]
    netlink = (_masked(0, tables.WORD, tables.AF_NETLINK), _masked(2, tables.WORD, tables.NETLINK_ROUTE))
    rules.append(_rule(["socket"], *netlink))
    rules.append(_rule(["socketpair"], _masked(0, tables.WORD, tables.AF_UNIX)))
    for name, argument in (("mknod", 1), ("mknodat", 2)):
        rules.append(_rule([name], _masked(argument, tables.S_IFMT, tables.S_IFIFO)))
    rules += [_rule(["ioctl"], _masked(1, *cube)) for cube in all_but(tables.TERMINAL_TRICKS)]
    rules += [_rule(["prctl"], _masked(0, *cube)) for cube in all_but((tables.PR_SET_PTRACER,))]
    both = tables.S_ISUID | tables.S_ISGID
    rules += [_rule([name], _masked(argument, both, 0)) for name, argument in tables.CHMODS]
    rules += [_rule(["setsockopt"], _masked(1, *cube)) for cube in all_but((tables.SOL_SOCKET,))]
    rules += [_rule(["setsockopt"], _masked(2, *cube)) for cube in all_but((tables.SO_LINGER,))]
    lingers = (_masked(1, tables.WORD, tables.SOL_SOCKET), _masked(2, tables.WORD, tables.SO_LINGER))
    rules.append({**_refusal(["setsockopt"], 0), "args": list(lingers)})
    named = {name for rule in rules for name in rule["names"]}
    rest = sorted(set(known) - named)
    if rest:
        rules.append(_refusal(rest, errno.ENOSYS))
    return {
        "defaultAction": _ERRNO,
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [_ARCHITECTURES[machine]] if machine in _ARCHITECTURES else [],
        "syscalls": rules,
    }


def all_but(values: tuple[int, ...], bits: int = 32) -> list[tuple[int, int]]:
    """(mask, what is under it) of blocks that together hold every number of so many bits but the given ones."""
    found: list[tuple[int, int]] = []

    def split(prefix: int, depth: int) -> None:
        """Go through the tree of numbers by their first bits, as far as a given value is below."""
        shift = bits - depth
        inside = [value for value in values if value >> shift == prefix]
        if not inside:
            found.append(((1 << bits) - (1 << shift), prefix << shift))
        elif shift:
            split(prefix << 1, depth + 1)
            split(prefix << 1 | 1, depth + 1)

    split(0, 0)
    return found


def _rule(names: list[str], *arguments: dict[str, Any]) -> dict[str, Any]:
    return {"names": names, "action": _ALLOW, "args": list(arguments)}


def _refusal(names: list[str], number: int) -> dict[str, Any]:
    return {"names": names, "action": _ERRNO, "errnoRet": number, "args": []}


def _masked(argument: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": argument, "value": mask, "valueTwo": value, "op": _MASKED}
