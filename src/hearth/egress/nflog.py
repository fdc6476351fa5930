"""The kernel's word about packets that were refused (NFLOG): bound by the keeper, read by the resolver, without privileges.

The heads of packets are hostile bytes: of each only protocol, target and port are read, by hand.
Sources: linux/netfilter/nfnetlink_log.h; RFC 791 section 3.1; RFC 8200 section 3.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from hearth.egress.netlink import ACK, NETFILTER, REQUEST, attr, attrs, messages

_ULOG = 4 << 8
_PACKET, _CONFIG = _ULOG | 0, _ULOG | 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT = 1, 2, 4
_BIND, _COPY_PACKET = 1, 2
_PAYLOAD = 9
_COPY = 64  # bytes
_TIMEOUT = 10  # hundredths of a second that the kernel gathers packets for one message
_SOL_NETLINK, _NO_ENOBUFS = 270, 5
_WAIT = 5.0  # seconds; the kernel answers in microseconds
_RECEIVE = 256 * 1024
_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp", 132: "sctp"}


@dataclass(frozen=True, slots=True)
class Refused:
    """One packet: who sent it, by which protocol, to whom; port 0 where there is none."""

    source: str
    protocol: str
    target: str
    port: int


def listen(group: int) -> socket.socket:
    """A non-blocking socket on which the kernel tells of packets that a rule logs to this group, in this network namespace.

    Raises:
        OSError: as the kernel said it; EBUSY or EEXIST when somebody else listens.
    """
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
    try:
        sock.bind((0, 0))
        sock.settimeout(_WAIT)
        sock.setsockopt(_SOL_NETLINK, _NO_ENOBUFS, 1)  # what is told too fast is lost, and nothing else
        for number, body in enumerate(
            (
                attr(_CFG_CMD, bytes([_BIND])),
                attr(_CFG_MODE, struct.pack("!IBx", _COPY, _COPY_PACKET))
                + attr(_CFG_TIMEOUT, struct.pack("!I", _TIMEOUT)),
            ),
            1,
        ):
            _request(sock, number, struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + body)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _request(sock: socket.socket, number: int, body: bytes) -> None:
    sock.send(struct.pack("=IHHII", 16 + len(body), _CONFIG, REQUEST | ACK, number, 0) + body)
    while True:
        for kind, _, sequence, reply in messages(sock.recv(_RECEIVE)):
            if kind == 2 and sequence == number:  # NLMSG_ERROR, which is also the acknowledgement
                (code,) = struct.unpack_from("=i", reply)
                if code:
                    raise OSError(-code, "the kernel does not tell of refused packets")
                return


def read(sock: socket.socket) -> list[Refused]:
    """What there is to read now; empty when there is nothing."""
    try:
        data = sock.recv(_RECEIVE)
    except OSError:
        return []
    return list(_packets(data))


def _packets(data: bytes) -> Iterator[Refused]:
    for kind, _, _, body in messages(data):
        if kind == _PACKET:
            found = head_of(attrs(body[4:]).get(_PAYLOAD, b""))
            if found is not None:
                yield found


def head_of(packet: bytes) -> Refused | None:
    """What the head of a packet says; None when it is none."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        length = (packet[0] & 15) * 4
        source, target = str(IPv4Address(packet[12:16])), str(IPv4Address(packet[16:20]))
        number = packet[9]
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        length, number = 40, packet[6]
        source, target = str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))
    else:
        return None
    protocol = _PROTOCOLS.get(number, f"protocol {number}")
    has_port = protocol in ("tcp", "udp", "sctp") and length >= 20 and len(packet) >= length + 4
    port = struct.unpack_from("!H", packet, length + 2)[0] if has_port else 0
    return Refused(source, protocol, target, port)
