"""Where builds get packages from: the operator's settings, made into what a build sandbox needs.

Environment variables are those of pip (`PIP_*`, pip.conf), uv (docs.astral.sh/uv/reference/environment), npm
(`npm_config_*`, .npmrc), Go (`go help environment`) and the usual ones for proxies and certificates. All are given as
a dict; this module reads neither the environment nor, but for certificates, files.
"""

from __future__ import annotations

import configparser
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from hearth.core.errors import InvalidInput
from hearth.core.launch import Mount

SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
VISIBLE = ("/usr/", "/etc/ssl/certs/", "/etc/pki/tls/certs/")  # what every sandbox has of the host
CA_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE")
CA_TARGET = "/opt/ca"
PASSED = (
    "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "UV_INSECURE_HOST", "UV_INDEX_STRATEGY", "UV_HTTP_TIMEOUT",
    "npm_config_strict_ssl", "GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GOPRIVATE", "GONOPROXY", "GOINSECURE",
)  # fmt: skip
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PYPI = ("https://pypi.org/simple", "https://files.pythonhosted.org")
NPM = "https://registry.npmjs.org/"
GO_PROXY, GO_SUMDB = "https://proxy.golang.org", "https://sum.golang.org"
_PORTS = {"https": 443, "http": 80, "socks5": 1080, "socks5h": 1080}
_CREDENTIALS = re.compile(r"(?<=//)[^/\s@'\"]+@")


@dataclass(frozen=True, slots=True)
class Registries:
    """What builds are told.

    Args:
        env: for the build's environment. May hold credentials.
        npmrc: lines for ``~/.npmrc`` of a build: scoped registries, tokens. Holds credentials.
        endpoints: (host, port) that a build may reach whatever their address.
        folders: host folders that ``file://`` URLs name; the keeper must be started with them as prefixes.
        bundle: a certificate bundle that sandboxes don't see, or None.
        secrets: passwords and tokens, to be taken out of logs.
    """

    env: tuple[tuple[str, str], ...]
    npmrc: str
    endpoints: tuple[tuple[str, int], ...]
    folders: tuple[str, ...]
    bundle: str | None
    secrets: tuple[str, ...]

    def scrub(self, text: str) -> str:
        """A line of a log without credentials."""
        text = _CREDENTIALS.sub("***@", text)
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Of `folders`, as a build has them."""
        return tuple(Mount("prefix", folder, folder) for folder in self.folders)


def read_registries(
    environ: Mapping[str, str], pip_conf: str = "", npmrc: str = "", bundles: Iterable[str] = SYSTEM_BUNDLES
) -> Registries:
    """Sort the operator's settings.

    Args:
        environ: his environment, or the part of it that concerns packages.
        pip_conf: text of his pip.conf.
        npmrc: text of his .npmrc.
        bundles: where a system keeps its certificates; the first that exists is the default.

    Raises InvalidInput for a URL that makes no sense.
    """
    env: dict[str, str] = {}
    urls: list[str] = []
    pip = _pip_options(pip_conf)
    npm = dict(_npm_options(npmrc))
    _python(environ, pip, env, urls)
    registry = _first(environ, "npm_config_registry", "NPM_CONFIG_REGISTRY") or npm.get("registry") or NPM
    env["npm_config_registry"] = registry
    urls.append(registry)
    kept = {key: value for key, value in npm.items() if key.startswith(("@", "//")) or key == "always-auth"}
    urls += [value for key, value in kept.items() if key.startswith("@") and key.endswith(":registry")]
    folders = _go(environ, env, urls)
    for name in PASSED:
        if value := environ.get(name) or environ.get(name.upper()):
            env[name] = value
    for name in PROXIES:
        if value := environ.get(name) or environ.get(name.lower()):
            env[name] = env[name.lower()] = value
            urls += [value if "//" in value else f"http://{value}"] if name != "NO_PROXY" else []
    bundle = _certificates(environ, pip, npm, env, bundles)
    endpoints = {point for url in urls if (point := _endpoint(url))}
    secrets = {secret for url in urls for secret in _secrets(url)}
    secrets |= {value for key, value in kept.items() if key.startswith("//")}
    return Registries(
        env=tuple(sorted(env.items())),
        npmrc="".join(f"{key}={value}\n" for key, value in kept.items()),
        endpoints=tuple(sorted(endpoints)),
        folders=folders,
        bundle=bundle,
        secrets=tuple(sorted((secret for secret in secrets if len(secret) >= 6), key=len, reverse=True)),
    )


def _first(environ: Mapping[str, str], *names: str) -> str:
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _python(environ: Mapping[str, str], pip: Mapping[str, str], env: dict[str, str], urls: list[str]) -> None:
    index = _first(environ, "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL") or pip.get("index-url", "")
    index = index.rpartition("=")[2] if re.match(r"[\w-]+=https?://", index) else index  # uv: NAME=URL
    if index:
        env["UV_DEFAULT_INDEX"] = env["PIP_INDEX_URL"] = index
        urls.append(index)
    else:
        urls.extend(PYPI)
    more = _first(environ, "UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL") or pip.get(
        "extra-index-url", ""
    )
    if more:
        env["UV_INDEX"] = " ".join(more.split())
        env["PIP_EXTRA_INDEX_URL"] = " ".join(
            re.sub(r"^[\w-]+=(?=https?://)", "", url) for url in more.split()
        )
        urls.extend(env["PIP_EXTRA_INDEX_URL"].split())


def _go(environ: Mapping[str, str], env: dict[str, str], urls: list[str]) -> tuple[str, ...]:
    folders = []
    proxies = environ.get("GOPROXY", "").strip() or f"{GO_PROXY},direct"
    env["GOPROXY"] = proxies
    for url in re.split(r"[,|]", proxies):
        if url in ("direct", "off", ""):
            continue
        if url.startswith("file://"):
            folder = unquote(urlsplit(url).path)
            if not Path(folder).is_absolute() or ".." in folder.split("/"):
                raise InvalidInput(
                    f"GOPROXY names {url!r}, which is no full path", hint="write file:///srv/goproxy"
                )
            if not folder.startswith(VISIBLE):
                folders.append(os.path.normpath(folder))
        else:
            urls.append(url)
    sumdb = environ.get("GOSUMDB", "").split()
    if not sumdb:
        urls.append(GO_SUMDB)
    elif len(sumdb) == 2:  # name+key URL
        urls.append(sumdb[1])
    elif sumdb[0] != "off":
        urls.append(f"https://{sumdb[0].partition('+')[0]}")
    return tuple(dict.fromkeys(folders))


def _certificates(
    environ: Mapping[str, str],
    pip: Mapping[str, str],
    npm: Mapping[str, str],
    env: dict[str, str],
    bundles: Iterable[str],
) -> str | None:
    """Set the variables of certificates; returns a bundle that must be brought into sandboxes."""
    chosen = (
        _first(environ, *CA_VARIABLES, "npm_config_cafile") or pip.get("cert", "") or npm.get("cafile", "")
    )
    chosen = chosen or next((path for path in bundles if Path(path).exists()), "")
    if not chosen:
        return None
    hidden = not chosen.startswith(VISIBLE)
    inside = f"{CA_TARGET}/ca.pem" if hidden else chosen
    env.update(dict.fromkeys(CA_VARIABLES, inside))
    return chosen if hidden else None


def _pip_options(text: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as error:
        raise InvalidInput(f"pip.conf can't be read: {str(error).splitlines()[0][:120]}") from None
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            found |= {key: value.strip() for key, value in parser.items(section) if value}
    return found


def _npm_options(text: str) -> Iterable[tuple[str, str]]:
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith(("#", ";")) and "${" not in value:
            yield key.strip(), value.strip().strip("\"'")


def _endpoint(url: str) -> tuple[str, int] | None:
    try:
        parts = urlsplit(url.strip())
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        parts, port = urlsplit(""), None
    if not parts.hostname or port is None:
        raise InvalidInput(
            f"{_CREDENTIALS.sub('***@', url)[:200]!r} is no address of a package index or proxy",
            hint="write https://host/path",
        )
    return parts.hostname, port


def _secrets(url: str) -> set[str]:
    parts = urlsplit(url)
    found = {parts.password or ""} | ({parts.username or ""} if not parts.password else set())
    return {form for secret in found if secret for form in (secret, unquote(secret))}
