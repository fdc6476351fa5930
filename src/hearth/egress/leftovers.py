"""What a platform's networks leave on this machine when its keeper is killed: looked at, and taken away.

Everything here is synchronous and for a worker thread.
"""

from __future__ import annotations

import contextlib
import errno
from ipaddress import IPv4Network

from hearth.core.errors import SandboxFailed
from hearth.egress import claim, conntrack, docker_user, links, networkd
from hearth.egress.netlink import NETFILTER, ROUTE, Netlink
from hearth.egress.nft import NftError, NftMissing, find
from hearth.egress.ruleset import drop


def explain(error: Exception) -> SandboxFailed:
    """One failure in the words of the tree."""
    if isinstance(error, SandboxFailed):
        return error
    if isinstance(error, NftError):
        return SandboxFailed(
            f"the packet filter's rules are not in force: {error}",
            hint="run: modprobe -a nf_tables nft_ct nft_nat nft_masq nft_reject_inet nft_log nft_limit nft_connlimit "
            "nfnetlink_log",
        )
    if isinstance(error, ValueError):
        return SandboxFailed(str(error))
    if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return SandboxFailed(
            f"this process may not change networks: {error}",
            hint="give it CAP_NET_ADMIN and CAP_SYS_ADMIN and a writable /proc/sys (a container needs --privileged)",
        )
    if isinstance(error, OSError) and error.errno == errno.EOPNOTSUPP:
        return SandboxFailed("this kernel can't make veth links", hint="run: modprobe veth")
    return SandboxFailed(f"the network of a sandbox could not be changed: {error}", hint="run: hearth doctor")


def left(instance: str) -> list[str]:
    """What `cleanup_leftovers` would remove, in words. Needs root to see all of it; what can't be seen is left out."""
    prefix, table = claim.prefix(instance), claim.table(instance)
    found = []
    with contextlib.suppress(OSError), Netlink(ROUTE) as netlink:
        count = sum(link.name.startswith(prefix) for link in links.links(netlink))
        found += [f"{count} links {prefix}*"] if count else []
        label = f"lo:{prefix}"
        found += [f"address {have.address}" for have in links.addresses(netlink) if have.label == label]
    if networkd.file_for(prefix).exists():
        found.append(f"file {networkd.file_for(prefix)}")
    with contextlib.suppress(NftError):
        nft = find()
        try:
            shown = [item.get("table", {}) for item in nft.show("tables")]
        finally:
            nft.close()
        found += [f"nft table {one['family']} {one['name']}" for one in shown if one.get("name") == table]
    return found


def cleanup_leftovers(instance: str) -> None:
    """Remove all that an instance left on this machine: links, table, range, rules. Nothing there is no error.

    Links go first: nothing may pass while there are no rules.

    Raises:
        SandboxFailed: something could not be removed.
    """
    prefix, group = claim.prefix(instance), claim.group(instance)
    try:
        with Netlink(ROUTE) as netlink:
            _remove_links(netlink, prefix, group)
            try:
                nft = find()
            except NftMissing:
                nft = None
            if nft is not None:
                try:
                    nft.run(drop(claim.names(instance, IPv4Network("0.0.0.0/0"))))
                finally:
                    nft.close()
            blocks = claim.release(netlink, instance)
        networkd.withdraw(prefix)
        if blocks:
            docker_user.withdraw(prefix)
            with Netlink(NETFILTER) as netlink:
                for block in blocks:
                    conntrack.cut(netlink, block)
    except (OSError, NftError) as error:
        raise explain(error) from error


def _remove_links(netlink: Netlink, prefix: str, group: int) -> None:
    there = links.links(netlink)
    ours = [link for link in there if link.name.startswith(prefix)]
    strangers = [link for link in there if link.group == group and not link.name.startswith(prefix)]
    if len(ours) > 1 and not strangers and all(link.group == group for link in ours):
        links.delete_group(netlink, group)
        return
    for link in ours:
        links.delete(netlink, link.name)
