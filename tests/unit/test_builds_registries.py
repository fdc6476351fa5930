"""The operator's registry settings, as builds get them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hearth.build.reach import keep_bundle, resolve
from hearth.build.registries import read_registries
from hearth.core.errors import InvalidInput
from hearth.core.launch import Mount


def test_defaults() -> None:
    made = read_registries({}, bundles=())
    assert made.endpoints == (
        ("files.pythonhosted.org", 443),
        ("proxy.golang.org", 443),
        ("pypi.org", 443),
        ("registry.npmjs.org", 443),
        ("sum.golang.org", 443),
    )
    env = dict(made.env)
    assert env["GOPROXY"] == "https://proxy.golang.org,direct"
    assert "UV_DEFAULT_INDEX" not in env
    assert (made.folders, made.bundle, made.secrets, made.npmrc) == ((), None, (), "")


@pytest.mark.parametrize("name", ["PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"])
def test_index(name: str) -> None:
    made = read_registries({name: "https://jo:pa%21ssword@index.example:8443/simple"}, bundles=())
    env = dict(made.env)
    assert (
        env["UV_DEFAULT_INDEX"] == env["PIP_INDEX_URL"] == "https://jo:pa%21ssword@index.example:8443/simple"
    )
    assert ("index.example", 8443) in made.endpoints
    assert "pypi.org" not in dict(made.endpoints)
    assert made.scrub("at https://jo:pa%21ssword@index.example/ with pa!ssword") == (
        "at https://***@index.example/ with ***"
    )


def test_more_indexes() -> None:
    made = read_registries(
        {"PIP_EXTRA_INDEX_URL": "https://a.example/simple  mine=http://b.example/simple"}, bundles=()
    )
    env = dict(made.env)
    assert env["UV_INDEX"] == "https://a.example/simple mine=http://b.example/simple"
    assert env["PIP_EXTRA_INDEX_URL"] == "https://a.example/simple http://b.example/simple"
    assert {("a.example", 443), ("b.example", 80), ("pypi.org", 443)} <= set(made.endpoints)


def test_pip_conf() -> None:
    made = read_registries(
        {}, "[global]\nindex-url = https://c.example/x\ncert = /etc/ssl/certs/ca.pem\n", bundles=()
    )
    assert dict(made.env)["UV_DEFAULT_INDEX"] == "https://c.example/x"
    assert dict(made.env)["SSL_CERT_FILE"] == "/etc/ssl/certs/ca.pem"
    with pytest.raises(InvalidInput, match=r"pip\.conf"):
        read_registries({}, "index-url = x\n")


def test_npm() -> None:
    npmrc = (
        "; mine\nregistry=https://npm.example/\n@acme:registry=https://acme.example:444/\n"
        "//npm.example/:_authToken=npm_0123456\nfund=false\ncafile=/srv/ca.pem\nx=${HOME}\n"
    )
    made = read_registries({}, npmrc=npmrc, bundles=())
    assert dict(made.env)["npm_config_registry"] == "https://npm.example/"
    assert {("npm.example", 443), ("acme.example", 444)} <= set(made.endpoints)
    assert made.npmrc == "@acme:registry=https://acme.example:444/\n//npm.example/:_authToken=npm_0123456\n"
    assert made.scrub("npm_0123456") == "***"
    assert made.bundle == "/srv/ca.pem"
    assert dict(made.env)["NODE_EXTRA_CA_CERTS"] == "/opt/ca/ca.pem"
    assert (
        dict(read_registries({"NPM_CONFIG_REGISTRY": "http://n.example"}).env)["npm_config_registry"]
        == "http://n.example"
    )


def test_go() -> None:
    made = read_registries(
        {
            "GOPROXY": "https://go.example/x|file:///srv/my%20proxy,file:///usr/share/gocode,direct",
            "GOSUMDB": "sum.golang.org+033de0ae https://sum.example",
            "GOPRIVATE": "git.example/*",
        },
        bundles=(),
    )
    assert {("go.example", 443), ("sum.example", 443)} <= set(made.endpoints)
    assert ("proxy.golang.org", 443) not in made.endpoints
    assert made.folders == ("/srv/my proxy",)
    assert made.mounts == (Mount("prefix", "/srv/my proxy", "/srv/my proxy"),)
    assert dict(made.env)["GOPRIVATE"] == "git.example/*"
    off = read_registries({"GOPROXY": "off", "GOSUMDB": "off"}, bundles=())
    assert not any("golang" in host for host, _ in off.endpoints)
    with pytest.raises(InvalidInput, match="no full path"):
        read_registries({"GOPROXY": "file:///srv/../etc"})


def test_proxies() -> None:
    made = read_registries(
        {"https_proxy": "http://u:secret99@px.example:3128", "NO_PROXY": "*.example"}, bundles=()
    )
    env = dict(made.env)
    assert env["HTTPS_PROXY"] == env["https_proxy"] == "http://u:secret99@px.example:3128"
    assert env["no_proxy"] == "*.example"
    assert ("px.example", 3128) in made.endpoints
    assert made.scrub("secret99") == "***"


def test_certificates(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_text("x")
    assert (
        dict(read_registries({}, bundles=("/nonexistent", str(bundle))).env)["SSL_CERT_FILE"]
        == "/opt/ca/ca.pem"
    )
    visible = read_registries({"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"}, bundles=())
    assert visible.bundle is None
    assert dict(visible.env)["PIP_CERT"] == "/etc/ssl/certs/ca-certificates.crt"


@pytest.mark.parametrize(
    "url", ["nonsense", "https://", "ftp://a.example/", "https://a.example:x/", "https://[::1"]
)
def test_nonsense(url: str) -> None:
    with pytest.raises(InvalidInput):
        read_registries({"PIP_INDEX_URL": url})


def test_nonsense_never_shows_a_password() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_registries({"PIP_INDEX_URL": "ftp://jo:hush@a.example/"})
    assert "hush" not in caught.value.message


async def test_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"a.example": ["198.51.100.1", "198.51.100.2", "198.51.100.1"], "local.example": ["127.0.0.1"]}

    async def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in names:
            raise OSError("no such name")
        return [(0, 0, 0, "", (address, port)) for address in names[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
    allow, hosts = await resolve([("a.example", 443), ("local.example", 80), ("gone.example", 443)])
    assert allow == (("198.51.100.1", 443), ("198.51.100.2", 443))
    assert hosts == (("a.example", "198.51.100.1"), ("a.example", "198.51.100.2"))


async def test_resolve_an_address() -> None:
    assert await resolve([("198.51.100.9", 8080)]) == ((("198.51.100.9", 8080),), ())


def test_keep_bundle(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("certificates")
    mount = keep_bundle(str(tmp_path / "ca.crt"), tmp_path)
    assert keep_bundle(str(tmp_path / "ca.crt"), tmp_path) == mount
    assert (tmp_path / mount.name / "ca.pem").read_text() == "certificates"
    assert sorted(path.name for path in tmp_path.iterdir()) == [mount.name, "ca.crt"]
    with pytest.raises(InvalidInput, match="can't be read"):
        keep_bundle(str(tmp_path / "missing"), tmp_path)
