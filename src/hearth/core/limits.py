"""Sizes, durations and the limits and defaults that the reference page lists."""

from __future__ import annotations

import re

from hearth.core.errors import InvalidInput

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_SIZES = {"B": 1, "KiB": KIB, "MiB": MIB, "GiB": GIB, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(text: str) -> int:
    """``256MiB`` in bytes. Raises InvalidInput."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?B|B)", text.strip())
    if match is None:
        raise InvalidInput(f"{text[:40]!r} is not a size", hint="write a number and a unit, such as 256MiB")
    return int(float(match[1]) * _SIZES[match[2]])


def parse_duration(text: str) -> float:
    """``1m30s`` in seconds. Raises InvalidInput."""
    text = text.strip()
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(
            f"{text[:40]!r} is not a duration", hint="write a number and a unit, such as 30s or 5m"
        )
    return sum(float(number) * _TIMES[unit] for number, unit in parts)


def format_size(size: int) -> str:
    """The shortest exact form: 268435456 gives ``256MiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _SIZES[unit] == 0:
            return f"{size // _SIZES[unit]}{unit}"
    return f"{size}B"


MEMORY_DEFAULT, MEMORY_MIN, MEMORY_MAX = 256 * MIB, 16 * MIB, 64 * GIB
CPU_DEFAULT, CPU_MIN, CPU_MAX = 1.0, 0.05, 64.0
TIMEOUT_DEFAULT, TIMEOUT_MIN, TIMEOUT_MAX = 30.0, 0.1, 900.0
INIT_TIMEOUT_DEFAULT, INIT_TIMEOUT_MAX = 10.0, 120.0
CONCURRENCY_DEFAULT = {"python": 1, "node": 32, "go": 64, "container": 64}
CONCURRENCY_MAX = 1000
SCALE_MAX_DEFAULT, SCALE_MAX_MAX = 10, 1000
IDLE_DEFAULT, IDLE_MIN, IDLE_MAX = 60.0, 1.0, 86400.0
QUEUE_DEFAULT, QUEUE_MAX = 100, 10_000
TMP_DEFAULT, TMP_MIN, TMP_MAX = 64 * MIB, 1 * MIB, 16 * GIB
PIDS = 256
OPEN_FILES = 1024
MANIFEST_MAX = 64 * KIB  # bytes of function.yaml
ENV_NAMES_MAX, ENV_BYTES_MAX = 200, 32 * KIB
SECRET_MAX = 64 * KIB  # bytes of one value
ALLOW_MAX = 64  # entries of an allowlist
SECRETS_NAMED_MAX = 50  # secrets that one function names
SECRETS_BYTES_MAX = 80 * KIB  # bytes of their values together; in base64 they fit one message to the keeper
SECRETS_KEPT_MAX = 500  # secrets of a namespace, and of a function

LOG_LINE_MAX = 64 * KIB  # bytes of a line's text; the rest is cut
LOG_RATE, LOG_BURST = 1 * MIB, 4 * MIB  # bytes a second, and at once, that an instance's raw output may be
LOG_SIZE, LOG_SIZE_MIN = 64 * MIB, 1 * MIB  # bytes of one function's lines
LOG_AGE, LOG_AGE_MIN = 14 * 86400.0, 3600.0  # seconds that lines are kept
LOG_TOTAL, LOG_TOTAL_MIN = 4 * GIB, 16 * MIB  # bytes of all functions' lines
LOG_DISK_FREE_MIN = 256 * MIB  # bytes free in the data directory, below which no line is written

STREAM_MAX, STREAM_IDLE = 900.0, 60.0  # seconds a streamed body may go on, and may be silent
BODY_MAX = 6 * MIB  # bytes of a sync request's body
HEADER_BYTES_MAX, HEADER_FIELDS_MAX = 64 * KIB, 128
URL_MAX = 16 * KIB
CALL_DEPTH_MAX = 16  # functions that call functions that …
INNER_CONNECTIONS_MAX = 256  # that one instance may have to other functions
HEADER_TIMEOUT, BODY_TIMEOUT, KEEP_ALIVE_TIMEOUT = 15.0, 30.0, 75.0  # seconds
DRAIN_GRACE = 30.0

SOURCE_PACKED_MAX, SOURCE_UNPACKED_MAX, SOURCE_FILES_MAX = 50 * MIB, 250 * MIB, 20_000
SOURCE_RATIO_MAX, SOURCE_RATIO_FREE = (
    100,
    16 * MIB,
)  # unpacked bytes for a packed one, once that many came out
ARTIFACT_MAX, ARTIFACT_FILES_MAX = 1 * GIB, 200_000
BUILD_TIMEOUT, BUILD_MEMORY, BUILD_DISK, BUILD_CPU, BUILD_PIDS = 600.0, 2 * GIB, 4 * GIB, 2.0, 1024
BUILD_LOG_MAX = 8 * MIB
SEED_TIMEOUT = 7200.0  # seconds to compile a toolchain's standard library, once on a node: for one that hangs, not for one that is slow
UPLOADS_MAX = 16  # sources taken in at once
METRICS_FUNCTIONS_MAX = 500  # functions with series of their own on /metrics, in each process
DISK_FREE_MIN = 512 * MIB  # bytes free in the data directory, below which nothing is uploaded or built

ACCESS_TOKEN_TTL, REFRESH_TOKEN_TTL = 900.0, 30 * 86400.0
REFRESH_OVERLAP = (
    30.0  # seconds in which a rotated refresh token still works: two commands at once both succeed
)
LOGIN_FREE, LOGIN_WAIT_MAX = (
    {"account": 5, "address": 20},
    {"account": 60.0, "address": 300.0},
)  # failures, seconds
LOGIN_FORGET = 900.0  # seconds after the last failure
KEY_TTL_MIN, KEY_TTL_MAX = 60, 10 * 365 * 86400  # seconds
JSON_BODY_MAX = 1 * MIB  # bytes of a request to the management API, uploads apart
PASSWORD_MIN, PASSWORD_MAX = 10, 1024
VERSIONS_KEPT = 10  # newest versions of a function; others are kept as long as somebody needs them
ALIASES_MAX, ALIAS_TARGETS_MAX, ALIAS_WEIGHT_MAX = 50, 10, 1000  # of a function, of an alias, of a target
BLOB_GRACE = 600.0  # seconds that a source or an artifact stays after the last that needed it
INVOCATION_AGE = 7 * 86400.0  # seconds that an invocation's record is kept
INVOCATIONS_OF_FUNCTION_MAX, INVOCATIONS_MAX = 50_000, 500_000  # records, the newest ones
EVENT_AGE, EVENTS_MAX = 90 * 86400.0, 500_000  # of the outbox and audit
SANDBOX_AGE = 86400.0  # seconds that the row of a sandbox or a process that has ended is kept
