"""Errors of function code as the platform is told of them: without the shim's own frames, paths relative to the code."""

import importlib
import os
import traceback
from json import dumps

_HIDDEN = (
    os.path.dirname(__file__),
    os.path.dirname(importlib.__file__),
    "<frozen importlib",
    "<frozen runpy",
)
_MOST = 60_000  # characters


def _hidden(name):
    return name.startswith(_HIDDEN)


def _clean(told, seen):
    """Drop our own frames and those of the import, in causes as well."""
    if told is None or id(told) in seen:
        return
    seen.add(id(told))
    told.stack[:] = [line for line in told.stack if not _hidden(line.filename)]
    _clean(told.__cause__, seen)
    _clean(told.__context__, seen)
    for inner in getattr(told, "exceptions", None) or ():
        _clean(inner, seen)


def text(error, code):
    """The traceback as text."""
    try:
        told = traceback.TracebackException.from_exception(error)
        _clean(told, set())
        lines = "".join(told.format())
    except Exception as broken:  # an exception whose __str__ raises, say: the report must not fail
        lines = f"{type(error).__name__} (its traceback can't be shown: {type(broken).__name__})\n"
    lines = lines.replace(f'File "{code}/', 'File "')
    return lines if len(lines) <= _MOST else lines[: _MOST // 2] + "\n ...\n" + lines[-_MOST // 2 :]


def summary(error):
    """(type, message)."""
    kind = type(error).__name__
    if isinstance(error, SystemExit):
        return kind, f"the handler called sys.exit({error.code!r:.100})"
    try:
        return kind, str(error)[:8000]
    except Exception:  # __str__ is function code
        return kind, ""


def failure(error, traceback_text):
    """The payload of an `error` frame."""
    kind, message = summary(error)
    return dumps({"type": kind, "message": message, "traceback": traceback_text}).encode()


def init_error(error, code):
    """The payload of `init-error`; also printed to the function's logs."""
    import sys

    kind, message = summary(error)
    file, line = _where(error, code)
    if type(error).__name__ == "LoadError":
        kind, shown = "LoadError", ""
    else:
        shown = text(error, code)
        sys.stderr.write(shown)
    if isinstance(error, SystemExit):
        message = f"it called sys.exit({error.code!r:.100}) while it was imported"
    elif isinstance(error, SyntaxError):
        message = str(error.msg)
    told = {"type": kind, "message": message, "traceback": shown, "file": file, "line": line}
    return dumps(told).encode()


def _where(error, code):
    """The innermost place in the function's own code: file relative to it, and line."""
    root = code.rstrip("/") + "/"
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename.removeprefix(root), error.lineno
    found = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if name.startswith(root) and not name.startswith(root + ".hearth/"):
            found = name.removeprefix(root), line
    return found or (None, None)
