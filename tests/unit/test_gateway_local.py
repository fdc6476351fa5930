"""What counts as this machine itself: the real client's address, not that of a proxy on the loopback."""

from __future__ import annotations

from typing import cast

import pytest

from hearth.gateway.connection import Connection, Front
from hearth.gateway.forwarded import is_trusted, parse_networks
from hearth.gateway.local import is_local
from hearth.gateway.request import Request

TRUSTED = ("127.0.0.1/32", "10.0.0.0/8")


def local(
    peer: str = "127.0.0.1",
    *lines: str,
    trusted: tuple[str, ...] = (),
    host: str = "127.0.0.1:8080",
    **special: str,
) -> bool:
    networks = parse_networks(trusted)
    connection = Connection(cast(Front, None))
    connection.client = peer.encode()
    connection.proxies = networks if is_trusted(peer, networks) else ()
    headers = {name.replace("_", "-").encode(): value.encode() for name, value in special.items()}
    passed = [line.encode() for line in lines]
    return is_local(connection, Request(b"GET", b"/metrics", host.encode(), passed, headers, 0, False, True))


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_the_loopback_is(peer: str) -> None:
    assert local(peer)
    assert local(peer, "user-agent:Prometheus/2.42", trusted=TRUSTED, authorization="Bearer x")


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1", "0.0.0.0", ""])
def test_everybody_else_is_not(peer: str) -> None:
    assert not local(peer)
    assert not local(peer, x_forwarded_for="127.0.0.1")


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-prefix", "forwarded"]
)
def test_a_proxy_that_nobody_told_us_of_is_noticed(header: str) -> None:
    assert not local(**{header: "127.0.0.1"})


@pytest.mark.parametrize(
    "line",
    ["via:1.1 proxy", "x-real-ip:127.0.0.1", "x-forwarded-server:proxy", "cf-connecting-ip:127.0.0.1"],
)
def test_also_by_other_headers(line: str) -> None:
    assert not local("127.0.0.1", line)


@pytest.mark.parametrize(
    "chain",
    [
        "203.0.113.5",
        "127.0.0.1, 203.0.113.5",  # the client wrote the first
        "203.0.113.5, 127.0.0.1",
        "203.0.113.5, 10.1.1.1",
        "203.0.113.5:4711",  # some write a port
        "unknown, 127.0.0.1",
        "unknown",
        "",
        ",",
    ],
)
def test_behind_a_trusted_proxy_the_client_counts(chain: str) -> None:
    assert not local(trusted=TRUSTED, x_forwarded_for=chain)


def test_a_client_on_this_machine_behind_a_trusted_proxy() -> None:
    assert local(trusted=TRUSTED, x_forwarded_for="127.0.0.1")
    assert local(trusted=TRUSTED, x_forwarded_for="::1")
    assert not local("10.0.0.1", trusted=TRUSTED, x_forwarded_for="10.0.0.2")
    assert not local(trusted=TRUSTED, x_forwarded_proto="https")  # a proxy that does not say for whom


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8080", "[::1]"])
def test_the_loopbacks_own_names(host: str) -> None:
    assert local(host=host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[", "192.0.2.1", "[]:1"]
)
def test_a_page_elsewhere_that_resolves_to_us(host: str) -> None:
    assert not local(host=host)
