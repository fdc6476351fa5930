"""Every setting of the platform, in one frozen object that `config.py` reads and everybody is handed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hearth.core import limits


@dataclass(frozen=True, slots=True)
class Setting:
    """How one setting is documented and read: flag of `hearth up`, environment variable, meaning, default as text."""

    field: str
    flag: str
    env: str
    meaning: str
    default: str


@dataclass(frozen=True, slots=True)
class Settings:
    """What `hearth up` runs with. Paths are absolute, sizes bytes, times seconds."""

    data_dir: Path
    # With its password; empty: SQLite in the data directory.
    database_url: str = field(default="", repr=False)
    host: str = "127.0.0.1"
    port: int = 8080
    isolation: str = "auto"  # auto | bubblewrap | docker | process
    isolation_runtime: str = ""  # of docker's runtimes; empty: its own default
    docker_socket: Path = Path("/var/run/docker.sock")
    images: tuple[tuple[str, str], ...] = ()  # (language, name) where not Hearth's own
    registration: str = ""  # open | closed; empty: open on loopback, else closed after the first user
    public_url: str = ""  # as people reach it; empty: made from host and port
    key_file: Path | None = None
    max_body: int = limits.BODY_MAX
    drain_grace: float = limits.DRAIN_GRACE
    slots: int = 4  # warm slots kept per kind
    max_instances: int = 200  # instances and slots on this node
    trusted_proxies: tuple[str, ...] = ()
    private_networks: tuple[str, ...] = ()  # IPv4 ranges that functions may name under network.allow
    allow_unenforced: frozenset[str] = frozenset()
    build_workers: int = 2
    registry_env: tuple[tuple[str, str], ...] = field(
        default=()
    )  # what builds are told of indexes and proxies
    log_level: str = "info"
    log_size: int = limits.LOG_SIZE
    log_age: float = limits.LOG_AGE
    log_total: int = limits.LOG_TOTAL


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "data_dir",
        "--data-dir",
        "HEARTH_DATA_DIR",
        "where all state is kept",
        "~/.local/share/hearth (root: /var/lib/hearth)",
    ),
    Setting(
        "database_url",
        "--database-url",
        "HEARTH_DATABASE_URL",
        "the PostgreSQL database, as postgresql://USER:PASSWORD@HOST/NAME",
        "none: SQLite, DATA_DIR/hearth.db",
    ),
    Setting("host", "--host", "HEARTH_HOST", "address to listen on", "127.0.0.1"),
    Setting("port", "--port", "HEARTH_PORT", "port to listen on; 0 takes a free one", "8080"),
    Setting(
        "isolation",
        "--isolation",
        "HEARTH_ISOLATION",
        "auto, bubblewrap, docker, or process (no isolation: development only)",
        "auto",
    ),
    Setting(
        "isolation_runtime",
        "--isolation-runtime",
        "HEARTH_ISOLATION_RUNTIME",
        "with docker: the runtime that containers have, such as runsc or kata, where a function names none",
        "docker's own",
    ),
    Setting(
        "docker_socket",
        "--docker-socket",
        "HEARTH_DOCKER_SOCKET",
        "with docker: the daemon's socket",
        "/var/run/docker.sock",
    ),
    Setting(
        "images",
        "--images",
        "HEARTH_IMAGES",
        "with docker: images of languages, as LANGUAGE=NAME,…",
        "hearth-python, hearth-node, hearth-go",
    ),
    Setting(
        "registration",
        "--registration",
        "HEARTH_REGISTRATION",
        "open or closed: who may register after the first user",
        "open on loopback, else closed",
    ),
    Setting(
        "public_url",
        "--public-url",
        "HEARTH_PUBLIC_URL",
        "the URL by which people reach this platform",
        "http://HOST:PORT",
    ),
    Setting("key_file", "--key-file", "HEARTH_KEY_FILE", "file of the root key", "DATA_DIR/key"),
    Setting("max_body", "--max-body", "HEARTH_MAX_BODY", "largest body of a synchronous request", "6MiB"),
    Setting(
        "drain_grace",
        "--drain-grace",
        "HEARTH_DRAIN_GRACE",
        "how long requests in work may go on at shutdown",
        "30s",
    ),
    Setting("slots", "--slots", "HEARTH_SLOTS", "warm slots kept per kind", "4"),
    Setting(
        "max_instances",
        "--max-instances",
        "HEARTH_MAX_INSTANCES",
        "instances and slots on this node at most",
        "200",
    ),
    Setting(
        "trusted_proxies",
        "--trusted-proxies",
        "HEARTH_TRUSTED_PROXIES",
        "CIDRs whose X-Forwarded-* headers are believed",
        "none",
    ),
    Setting(
        "private_networks",
        "--private-networks",
        "HEARTH_PRIVATE_NETWORKS",
        "private CIDRs that functions may reach if they name targets in them under network.allow",
        "none",
    ),
    Setting(
        "allow_unenforced",
        "--allow-unenforced",
        "HEARTH_ALLOW_UNENFORCED",
        "limits that a function may write though this machine can't hold them",
        "none",
    ),
    Setting("build_workers", "--build-workers", "HEARTH_BUILD_WORKERS", "builds at once", "2"),
    Setting("log_level", "--log-level", "HEARTH_LOG_LEVEL", "debug, info, warning or error", "info"),
    Setting(
        "log_size", "--log-size", "HEARTH_LOG_SIZE", "most that one function's logs take on the disk", "64MiB"
    ),
    Setting("log_age", "--log-age", "HEARTH_LOG_AGE", "how long logs are kept", "14d"),
    Setting("log_total", "--log-total", "HEARTH_LOG_TOTAL", "most that all logs take on the disk", "4GiB"),
)
