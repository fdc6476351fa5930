"""Finds and imports the handler, and tells its shape."""

import importlib
import inspect
import os
import sys

from . import logs

MODULES = ("handler", "main", "app", "lambda_function", "index")
NAMES = ("handler", "lambda_handler", "app", "application")
DEPENDENCIES = ".hearth/python"  # where the build puts what is installed, below the code


class LoadError(Exception):
    """The code is there, but no handler in it."""


class Found:
    """A handler: its name (``module.attribute``), shape, the callable, and whether it is asynchronous."""

    __slots__ = ("call", "is_async", "name", "shape", "target")

    def __init__(self, name, shape, target, is_async=False, call=None):
        self.name = name
        self.shape = shape
        self.target = target
        self.is_async = is_async
        self.call = call  # lambda shapes: called with (event, context) whatever the handler takes


def load(settings):
    """Import what `settings` (the `load` frame) name. Raises LoadError and whatever the import raises."""
    code = settings["code"]
    _surroundings(code, settings.get("env") or {})
    logs.install_logging()
    wanted = settings.get("handler") or ""
    if wanted:
        module_name, _, name = wanted.replace(":", ".").replace("/", ".").rpartition(".")
        if not module_name:
            raise LoadError(f"handler {wanted!r} is to be MODULE.NAME, such as handler.handler")
        names = (name,)
    else:
        module_name, names = _module(code), NAMES
    module = _import(code, module_name)
    for name in names:
        target = getattr(module, name, None)
        if target is not None:
            return _shape(f"{module_name}.{name}", target)
    raise LoadError(f"{module_name.replace('.', '/')}.py defines no {' or '.join(names)}")


def _surroundings(code, env):
    import builtins
    import site

    os.chdir(code)
    os.environ.update(env)
    if "TZ" in env:
        from time import tzset

        tzset()
    sys.path.insert(0, code)
    for at, extra in enumerate(part for part in env.get("PYTHONPATH", "").split(":") if part):
        sys.path.insert(1 + at, os.path.join(code, extra))
    dependencies = os.path.join(code, DEPENDENCIES)
    if os.path.isdir(dependencies):
        site.addsitedir(dependencies)  # also its .pth files
    if not hasattr(builtins, "exit"):
        site.setquit()  # -S left them out, and scripts use them
    sys.argv = [""]


def _module(code):
    for name in MODULES:
        if os.path.isfile(os.path.join(code, name + ".py")) or os.path.isfile(
            os.path.join(code, name, "__init__.py")
        ):
            return name
    raise LoadError(f"there is none of {', '.join(name + '.py' for name in MODULES)}")


def _import(code, name):
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name or name.startswith(f"{error.name}."):
            raise LoadError(f"there is no module {error.name}") from None
        raise
    file = getattr(module, "__file__", None)
    if file is None or not file.startswith(code.rstrip("/") + "/"):
        raise LoadError(f"{name} is not in the function's code: a module of Python itself has this name")
    return module


def _shape(name, target):
    if not callable(target):
        raise LoadError(f"{name} is a {type(target).__name__}, which can't be called")
    inner = _unwrap(target)
    try:
        parameters = [
            parameter
            for parameter in inspect.signature(target).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        several = any(p.kind == p.VAR_POSITIONAL for p in inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # a callable written in C
        parameters, several = [], True
    needed = [parameter for parameter in parameters if parameter.default is parameter.empty]
    first = [parameter.name for parameter in parameters[:3]]
    if len(needed) == 3 or first == ["scope", "receive", "send"]:
        return Found(name, "asgi", target, True)
    if hasattr(target, "wsgi_app") or first[1:2] == ["start_response"] or first[:1] == ["environ"]:
        return Found(name, "wsgi", target)
    if len(needed) > 2:
        raise LoadError(f"{name} takes {len(needed)} arguments; a handler takes (event, context)")
    takes = 2 if several else min(2, len(parameters))
    call = (lambda event, context: target(), lambda event, context: target(event), target)[takes]
    is_async = inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)
    return Found(name, "lambda", target, is_async, call)


def _unwrap(target):
    """The function behind partials and objects with __call__."""
    while hasattr(target, "func") and hasattr(target, "keywords"):
        target = target.func
    if not inspect.isroutine(target) and not inspect.isclass(target):
        return getattr(type(target), "__call__", target)  # noqa: B004
    return target
