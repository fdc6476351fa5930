"""Where aliases send traffic: weighted versions, as people write and read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hearth.core.errors import InvalidInput
from hearth.core.limits import ALIAS_TARGETS_MAX, ALIAS_WEIGHT_MAX
from hearth.core.records import VersionRow

WHOLE = 100  # the weight of an alias's only version


@dataclass(frozen=True, slots=True)
class Share:
    """One version behind an alias. Weights are relative to each other: 90 and 10, or 9 and 1."""

    version: int  # its number
    weight: int


@dataclass(frozen=True, slots=True)
class AliasRow:
    """An alias and its shares, by version."""

    name: str
    shares: tuple[Share, ...]
    updated_ms: int


@dataclass(frozen=True, slots=True)
class VersionUse:
    """A version as a list shows it.

    Args:
        made_by: e-mail of who deployed it, empty when he is gone.
        size: bytes of its artifact, None while it has none.
        replaced: number of the version that was live when it went live.
        aliases: names and weights of those that send traffic to it.
    """

    version: VersionRow
    made_by: str
    size: int | None
    replaced: int | None
    aliases: tuple[tuple[str, int], ...]


def parse_shares(text: str) -> tuple[Share, ...]:
    """Read ``3=90,4=10``, or ``3`` for the whole. Raises InvalidInput."""
    if text.isascii() and text.isdigit() and len(text) < 10:
        return check_shares([Share(int(text), WHOLE)])
    shares = []
    for part in text.split(","):
        number, equals, weight = (piece.strip() for piece in part.partition("="))
        if not (equals and _is_count(number) and _is_count(weight)):
            raise InvalidInput(
                f"{part.strip()[:40]!a} is not a version and its weight",
                hint="write them like 3=90,4=10, or 3 for all traffic",
            )
        shares.append(Share(int(number), int(weight)))
    return check_shares(shares)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def check_shares(shares: Sequence[Share]) -> tuple[Share, ...]:
    """The same, by version; raises InvalidInput for none, too many, a version twice, a weight that is none."""
    if not 1 <= len(shares) <= ALIAS_TARGETS_MAX:
        raise InvalidInput(
            f"an alias has 1 to {ALIAS_TARGETS_MAX} versions", hint="write them like 3=90,4=10"
        )
    if len({share.version for share in shares}) < len(shares):
        raise InvalidInput("a version is named twice", hint="give each version one weight, like 3=90,4=10")
    for share in shares:
        if not 1 <= share.weight <= ALIAS_WEIGHT_MAX:
            raise InvalidInput(
                f"the weight {share.weight} of version {share.version} is not one of 1 to {ALIAS_WEIGHT_MAX}",
                hint="leave out a version that is to get nothing",
            )
    return tuple(sorted(shares, key=lambda share: share.version))


def format_shares(shares: Sequence[Share]) -> str:
    """The inverse of `parse_shares`."""
    return ",".join(f"{share.version}={share.weight}" for share in shares)
