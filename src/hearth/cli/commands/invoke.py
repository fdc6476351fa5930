"""invoke: call a function as the one who is logged in."""

from __future__ import annotations

import json
import mimetypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hearth.cli.context import connect, resolve
from hearth.cli.names import FUNCTION
from hearth.cli.options import Options, common, pass_options
from hearth.cli.output import emit, note
from hearth.cli.text import safe_lines
from hearth.core.errors import FunctionError, InvalidInput, NotFound, NotYetSupported

if TYPE_CHECKING:
    import httpx


@click.command()
@click.argument("name", type=FUNCTION)
@click.option("-d", "--data", metavar="DATA", help="The request's body.")
@click.option(
    "-f",
    "--file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="A file with the request's body; - is standard input.",
)
@click.option("--async", "asynchronous", is_flag=True, help="Not yet supported.")
@click.option(
    "--header", "headers", metavar="K:V", multiple=True, help="A header of the request; may be repeated."
)
@click.option(
    "--path", metavar="P", default="", help="Path and query after the function's name, such as /a?b=c."
)
@click.option("--method", metavar="M", help="HTTP method; POST with a body, else GET.")
@common
@pass_options
def invoke(
    options: Options,
    name: str,
    data: str | None,
    file: str | None,
    asynchronous: bool,
    headers: tuple[str, ...],
    path: str,
    method: str | None,
) -> None:
    """Call a function and print its answer's body as it comes.

    The exit code is 1 when the function failed or answered with an error status.

    \b
    Example:
      hearth invoke hello -d '{"name": "Ann"}'
      hearth invoke hello -f event.json --path /greet?loud=1
    """
    if asynchronous:
        raise NotYetSupported("asynchronous calls are not yet supported", hint="call it without --async")
    body, content_type = _body(data, file)
    sent = dict(_header(text) for text in headers)
    if content_type is not None and "content-type" not in {key.lower() for key in sent}:
        sent["Content-Type"] = content_type
    from hearth.client.invoke import invoke as call

    try:
        with (
            connect(options) as client,
            call(
                client,
                *resolve(options, client, name),
                method=method or ("GET" if body is None else "POST"),
                path=path,
                headers=sent,
                body=body,
            ) as response,
        ):
            if options.json:
                emit(_answer(response))
            else:
                _print(response)
            if response.is_error:
                raise FunctionError(
                    f"the function answered {response.status_code} {response.reason_phrase}".rstrip()
                )
    except FunctionError as error:
        _explain(error, name, options)
        raise


def _body(data: str | None, file: str | None) -> tuple[bytes | None, str | None]:
    """The request's body and what it is."""
    if data is not None and file is not None:
        raise click.UsageError("-d and -f exclude each other")
    if file == "-":
        content = sys.stdin.buffer.read()
        return content, "application/json" if _is_json(content) else "application/octet-stream"
    if file is not None:
        content = _read(Path(file))
        return content, mimetypes.guess_type(file)[0] or "application/octet-stream"
    if data is not None:
        content = data.encode("utf-8", "surrogateescape")
        return content, "application/json" if _is_json(content) else "text/plain; charset=utf-8"
    return None, None


def _read(file: Path) -> bytes:
    """A request's body. Raises NotFound, InvalidInput (a folder), OSError."""
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no file {file}", hint="name one that is there; or give the body itself: -d DATA"
        ) from error
    except IsADirectoryError as error:
        raise InvalidInput(f"{file} is a folder", hint="name a file that holds the request's body") from error


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _header(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon or not key.strip():
        raise InvalidInput(f"{text!r} is not a header", hint="write it like --header Accept:text/plain")
    return key.strip(), value.strip()


def _print(response: httpx.Response) -> None:
    last = b"\n"
    for piece in response.iter_raw():
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        last = piece or last
    if sys.stdout.isatty() and not last.endswith(b"\n"):
        click.echo()


def _answer(response: httpx.Response) -> dict[str, Any]:
    """An answer as JSON: its body as text, or in base64 where it is none."""
    import base64

    content = b"".join(response.iter_raw())
    found: dict[str, Any] = {
        "status": response.status_code,
        "headers": [list(pair) for pair in response.headers.multi_items()],
    }
    try:
        return {**found, "body": content.decode("utf-8")}
    except UnicodeDecodeError:
        return {**found, "body_base64": base64.b64encode(content).decode()}


def _explain(error: FunctionError, name: str, options: Options) -> None:
    """Show what the function left behind; tell where the rest is."""
    traceback = error.details.get("traceback")
    if isinstance(traceback, str) and traceback.strip() and not options.json:
        for line in safe_lines(traceback.rstrip()):
            note(line)
    invocation = error.details.get("invocation")
    if invocation is not None and (error.hint is None or "logs" in error.hint):  # we know where in them
        error.hint = f"its log: hearth logs {name} --invocation {invocation}"
