"""Errors as a person at a terminal sees them: one line, and an exit code."""

from __future__ import annotations

import json
from typing import Any

from hearth.cli.text import safe
from hearth.core import errors

OK, FAILED, USAGE, NOT_LOGGED_IN, NOT_FOUND = 0, 1, 2, 3, 4
INTERRUPTED, BROKEN_PIPE = 130, 141  # 128 + SIGINT, 128 + SIGPIPE, as a shell shows them

EXIT_CODES: dict[type[errors.HearthError], int] = {
    errors.HearthError: FAILED,
    errors.UserError: FAILED,
    errors.InvalidInput: USAGE,
    errors.InvalidName: USAGE,
    errors.InvalidManifest: FAILED,
    errors.InvalidSource: FAILED,
    errors.NotYetSupported: USAGE,
    errors.Unauthenticated: NOT_LOGGED_IN,
    errors.Forbidden: FAILED,
    errors.RegistrationClosed: FAILED,
    errors.NotFound: NOT_FOUND,
    errors.Conflict: FAILED,
    errors.TooLarge: FAILED,
    errors.FunctionError: FAILED,
    errors.FunctionFailed: FAILED,
    errors.FunctionTimeout: FAILED,
    errors.FunctionCrashed: FAILED,
    errors.FunctionLoadFailed: FAILED,
    errors.FunctionBadResponse: FAILED,
    errors.BuildFailed: FAILED,
    errors.Overloaded: FAILED,
    errors.QueueFull: FAILED,
    errors.RateLimited: FAILED,
    errors.Cancelled: FAILED,
    errors.PlatformError: FAILED,
    errors.NoCapacity: FAILED,
    errors.Draining: FAILED,
    errors.StoreUnavailable: FAILED,
    errors.ControlUnavailable: FAILED,
    errors.KeeperUnavailable: FAILED,
    errors.SandboxFailed: FAILED,
    errors.LimitUnenforceable: FAILED,
    errors.StaleLease: FAILED,
    errors.StartupFailed: FAILED,
    errors.ProtocolViolation: FAILED,
}


def exit_code(error: errors.HearthError) -> int:
    """The exit code of an error; a class that the table lacks has that of its nearest ancestor."""
    return next(EXIT_CODES[cls] for cls in type(error).__mro__ if cls in EXIT_CODES)


def error_line(message: str, hint: str | None) -> str:
    """``error: what. hint: what to do``, on one line and without anything that a terminal would obey."""
    line = f"error: {_sentence(message)}"
    return f"{line}. hint: {_sentence(hint)}" if hint else line


def error_json(code: str, message: str, hint: str | None, details: dict[str, Any]) -> str:
    """What `--json` prints on stderr."""
    return json.dumps({"error": {"code": code, "message": message, "hint": hint, "details": details}})


def _sentence(text: str) -> str:
    return safe(" ".join(text.split())).rstrip(".")
