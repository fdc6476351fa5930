"""The files of a made /etc: of the host's own nothing is seen inside."""

from __future__ import annotations

INSIDE_UID = 1000


def etc_files(
    resolver: str | None,
    hosts: tuple[tuple[str, str], ...],
    hostname: str = "fn",
    ids: tuple[int, int] = (INSIDE_UID, INSIDE_UID),
) -> dict[str, str]:
    """Path inside to content.

    Args:
        resolver: nameserver's address, or None without a network: names then fail at once.
        hosts: (name, address).
        ids: uid and gid of the function, as it sees them.
    """
    lines = [f"127.0.0.1 localhost {hostname}", "::1 localhost"]
    lines += [f"{address} {name}" for name, address in hosts]
    uid, gid = ids
    return {
        "/etc/passwd": (
            "root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n"
            f"fn:x:{uid}:{gid}:function:/tmp:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "/etc/group": f"root:x:0:\nfn:x:{gid}:\nnogroup:x:65534:\n",
        "/etc/hosts": "\n".join(lines) + "\n",
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "/etc/resolv.conf": f"nameserver {resolver}\noptions timeout:2 attempts:2\n" if resolver else "",
    }
