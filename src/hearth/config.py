"""Reads the environment: the only module of Hearth that does. Light to import, for the command line's sake."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hearth.core import limits
from hearth.core.addresses import is_within
from hearth.core.errors import InvalidInput
from hearth.core.names import ISOLATION_RUNTIME
from hearth.core.settings import SETTINGS, Settings
from hearth.core.targets import PRIVATE4


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """What the environment tells the command line. `server`, `token` and `namespace` are None when it is silent.

    `token` is an API key; `config_dir` is where the token file is kept.
    """

    server: str | None
    token: str | None
    namespace: str | None
    config_dir: Path


def environment() -> Mapping[str, str]:
    """The process's environment."""
    return os.environ


def client_settings(environ: Mapping[str, str]) -> ClientSettings:
    """Read HEARTH_SERVER, HEARTH_TOKEN and HEARTH_NAMESPACE; an empty variable counts as not set.

    Space around them is dropped: a secret that CI was given often ends with a newline.

    The folder is ``$XDG_CONFIG_HOME/hearth``, else ``$HOME/.config/hearth``. The XDG Base Directory
    Specification has a relative XDG_CONFIG_HOME ignored.
    """
    base = Path(environ.get("XDG_CONFIG_HOME", ""))
    if not base.is_absolute():
        base = _home(environ) / ".config"
    return ClientSettings(
        server=environ.get("HEARTH_SERVER", "").strip() or None,
        token=environ.get("HEARTH_TOKEN", "").strip() or None,
        namespace=environ.get("HEARTH_NAMESPACE", "").strip() or None,
        config_dir=base / "hearth",
    )


def _home(environ: Mapping[str, str]) -> Path:
    """HOME, else what the user database says; a user whom it doesn't know, as in many CI containers, has ``/``."""
    home = environ.get("HOME")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def wants_color(environ: Mapping[str, str]) -> bool:
    """Whether a terminal may be written to in colours: https://no-color.org, and TERM=dumb."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


REGISTRY_VARIABLES = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
    "GOPROXY",
    "GOPRIVATE",
    "GONOPROXY",
    "GONOSUMDB",
    "GOSUMDB",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "ALL_PROXY",
    "all_proxy",
    "CURL_CA_BUNDLE",
    "npm_config_cafile",
    "npm_config_strict_ssl",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "UV_INSECURE_HOST",
    "UV_INDEX_STRATEGY",
    "UV_HTTP_TIMEOUT",
    "GONOSUMCHECK",
    "GOINSECURE",
)
"""What builds are told of the operator's package indexes, proxies and certificate authorities."""


def registry_files(environ: Mapping[str, str]) -> dict[str, str]:
    """The operator's pip.conf and .npmrc, as text, empty where there are none."""
    home = Path(environ.get("HOME") or "/root")
    pip = environ.get("PIP_CONFIG_FILE")
    places = {
        "pip_conf": [Path(pip)]
        if pip
        else [home / ".config/pip/pip.conf", home / ".pip/pip.conf", Path("/etc/pip.conf")],
        "npmrc": [home / ".npmrc"],
    }
    found = {}
    for name, paths in places.items():
        text = ""
        for path in paths:
            try:
                text = path.read_text()
                break
            except OSError:
                continue
        found[name] = text
    return found


_LOOPBACK = ("127.", "::1", "localhost")


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    return host.startswith(_LOOPBACK[0]) or host in _LOOPBACK[1:]


def server_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Read the settings of `hearth up`: a flag wins over the environment, that over the default.

    Args:
        flags: text by field name of `core.settings.SETTINGS`; None or absent where not given.
        environ: the process's environment.

    Raises:
        InvalidInput: a value makes no sense; names the flag.
    """
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = flags.get(setting.field)
        named = setting.flag
        if text is None:
            text, named = environ.get(setting.env) or None, setting.env
        if text is not None:
            try:
                values[setting.field] = _READERS.get(setting.field, str)(text)
            except (ValueError, InvalidInput) as error:
                hint = error.hint if isinstance(error, InvalidInput) else None
                secret = setting.field == "database_url"  # it has a password in it
                shown = "what it is" if secret else repr(text)
                raise InvalidInput(f"{named} can't be {shown}: {error}", hint=hint) from error
    values.setdefault("data_dir", _default_data_dir(environ))
    host = values.get("host", "127.0.0.1")
    values.setdefault("registration", "open" if is_loopback(host) else "closed")
    values["registry_env"] = tuple((name, environ[name]) for name in REGISTRY_VARIABLES if environ.get(name))
    return Settings(**values)


def _default_data_dir(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/hearth")
    return Path(environ.get("HOME") or Path.home()) / ".local" / "share" / "hearth"


def runtime_dir(environ: Mapping[str, str]) -> Path | None:
    """$XDG_RUNTIME_DIR, where it is an absolute path (XDG Base Directory Specification)."""
    path = Path(environ.get("XDG_RUNTIME_DIR", ""))
    return path if path.is_absolute() else None


def _choice(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise InvalidInput("it is not one of the choices", hint=f"use one of: {', '.join(allowed)}")
        return text

    return read


def _number(smallest: int, largest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        hint = f"use a whole number from {smallest} to {largest}"
        if not text.isascii() or not text.isdigit():
            raise InvalidInput("it is not a whole number", hint=hint)
        if not smallest <= int(text) <= largest:
            raise InvalidInput("it is out of bounds", hint=hint)
        return int(text)

    return read


def _at_least(read: Callable[[str], Any], smallest: Any, shown: str) -> Callable[[str], Any]:
    def checked(text: str) -> Any:
        value = read(text)
        if value < smallest:
            raise InvalidInput("it is too small", hint=f"use {shown} or more")
        return value

    return checked


def _networks(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in names:
        ipaddress.ip_network(name)
    return names


def _private_networks(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    inside = ", ".join(map(str, PRIVATE4))
    for name in names:
        if ":" in name:
            raise InvalidInput(
                f"{name!r} is IPv6, and sandboxes have IPv4 only", hint="write CIDRs such as 10.0.0.0/24"
            )
        if not is_within(ipaddress.IPv4Network(name), PRIVATE4):
            raise InvalidInput(
                f"{name!r} is no private range; loopback and link-local addresses (metadata) are never opened",
                hint=f"write CIDRs inside of {inside}",
            )
    return names


def _unenforced(text: str) -> frozenset[str]:
    names = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not names <= ENFORCEABLE:
        raise InvalidInput("it names no limit", hint=f"use some of: {', '.join(sorted(ENFORCEABLE))}")
    return names


def _images(text: str) -> tuple[tuple[str, str], ...]:
    pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    for language, _, name in pairs:
        if language not in LANGUAGES or not name.strip():
            raise InvalidInput(
                "it names no image of a language", hint=f"write LANGUAGE=NAME, with {', '.join(LANGUAGES)}"
            )
    return tuple((language, name.strip()) for language, _, name in pairs)


def _isolation_runtime(text: str) -> str:
    if ISOLATION_RUNTIME.fullmatch(text) is None:
        raise InvalidInput("it is no name of a runtime", hint="use a name that docker knows, such as runsc")
    return text


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise InvalidInput("it is not an http or https URL", hint="write it as https://hearth.example.com")
    return text.rstrip("/")


LANGUAGES = ("python", "node", "go")


def _database_url(text: str) -> str:
    """What more is wrong with it, libpq says, which reads it."""
    text = text.strip()  # a secret often ends with a newline
    if not text.startswith(("postgresql://", "postgres://")):
        raise InvalidInput(
            "it is not a URL of PostgreSQL",
            hint="write postgresql://USER:PASSWORD@HOST:5432/NAME; without it the database is SQLite, in --data-dir",
        )
    return text


ENFORCEABLE = frozenset({"memory", "cpu", "pids", "tmp", "network"})

_READERS: dict[str, Callable[[str], Any]] = {
    "data_dir": lambda text: Path(text).expanduser().absolute(),
    "database_url": _database_url,
    "port": _number(0, 65535),
    "isolation": _choice("auto", "bubblewrap", "docker", "process"),
    "isolation_runtime": _isolation_runtime,
    "docker_socket": lambda text: Path(text.removeprefix("unix://")).expanduser().absolute(),
    "images": _images,
    "registration": _choice("open", "closed"),
    "public_url": _url,
    "key_file": lambda text: Path(text).expanduser().absolute(),
    "max_body": limits.parse_size,
    "drain_grace": limits.parse_duration,
    "slots": _number(0, 1000),
    "max_instances": _number(1, 100_000),
    "trusted_proxies": _networks,
    "private_networks": _private_networks,
    "allow_unenforced": _unenforced,
    "build_workers": _number(1, 64),
    "log_level": _choice("debug", "info", "warning", "error"),
    "log_size": _at_least(limits.parse_size, limits.LOG_SIZE_MIN, limits.format_size(limits.LOG_SIZE_MIN)),
    "log_age": _at_least(limits.parse_duration, limits.LOG_AGE_MIN, "1h"),
    "log_total": _at_least(limits.parse_size, limits.LOG_TOTAL_MIN, limits.format_size(limits.LOG_TOTAL_MIN)),
}


def settings_to_json(settings: Settings) -> dict[str, Any]:
    """For handing settings to a process of the platform."""
    data = dataclasses.asdict(settings)
    data["data_dir"] = str(settings.data_dir)
    data["docker_socket"] = str(settings.docker_socket)
    data["key_file"] = None if settings.key_file is None else str(settings.key_file)
    data["allow_unenforced"] = sorted(settings.allow_unenforced)
    return data


def settings_from_json(data: dict[str, Any]) -> Settings:
    """The inverse of `settings_to_json`."""
    values = dict(data)
    values["data_dir"] = Path(values["data_dir"])
    values["docker_socket"] = Path(values["docker_socket"])
    values["images"] = tuple((language, name) for language, name in values["images"])
    values["key_file"] = None if values["key_file"] is None else Path(values["key_file"])
    values["trusted_proxies"] = tuple(values["trusted_proxies"])
    values["private_networks"] = tuple(values["private_networks"])
    values["allow_unenforced"] = frozenset(values["allow_unenforced"])
    values["registry_env"] = tuple((name, value) for name, value in values["registry_env"])
    return Settings(**values)
