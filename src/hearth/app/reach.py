"""What an allowlist may name on this platform."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network

from hearth.core.addresses import is_within
from hearth.core.errors import InvalidManifest
from hearth.core.function import FunctionConfig
from hearth.core.targets import is_private, parse_targets


def check_targets(config: FunctionConfig, private_networks: Iterable[str]) -> None:
    """Hold the private targets that a function names against those that the operator allows.

    Names are not looked up: what they lead to is judged at each look-up, and each packet by the packet filter.

    Args:
        private_networks: CIDRs of ``--private-networks``.

    Raises:
        InvalidManifest: one is not within them.
    """
    allowed = [IPv4Network(network) for network in private_networks]
    for target in parse_targets(config.allow):
        if target.range is None or not is_private(target) or is_within(target.range, allowed):
            continue
        flag = ",".join([*private_networks, str(target.range)])
        raise InvalidManifest(
            f"network.allow names {target}, a private address that this platform lets no function reach",
            hint=f"take it out, or ask the operator to start Hearth with --private-networks {flag}",
            details={"file": "function.yaml", "key": "network.allow"},
        )
