"""What a Lambda-shaped handler returned, as an answer. The table is in docs/reference/guest-protocol.md."""

import re
from binascii import Error as Base64Error
from binascii import a2b_base64
from json import JSONEncoder

_encode = JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_encode_ascii = JSONEncoder(allow_nan=False).encode  # for text with lone surrogates, which UTF-8 can't say
_token = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_not_in_value = re.compile(r"[\r\n\0]").search
_not_ours = frozenset(
    ("content-length", "connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade")
)
JSON_HEAD = b"200\ncontent-type:application/json"
TEXT_HEAD = b"200\ncontent-type:text/plain; charset=utf-8"
BYTES_HEAD = b"200\ncontent-type:application/octet-stream"


class BadResponse(Exception):
    """The handler's value makes no sense as an answer."""


def to_json(value):
    """JSON as UTF-8. Raises BadResponse."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise BadResponse(f"the handler returned what is not JSON: {error}") from None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _encode_ascii(value).encode()


def of(value):
    """(head, body) of a handler's value; `body` is bytes, or an iterator when it is to be streamed."""
    kind = type(value)
    if kind is str:
        return TEXT_HEAD, value.encode("utf-8", "replace")
    if kind is dict:
        if "statusCode" in value:
            return _of_object(value)
        return JSON_HEAD, to_json(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return BYTES_HEAD, bytes(value)
    if isinstance(value, str):
        return TEXT_HEAD, value.encode("utf-8", "replace")
    if isinstance(value, dict) and "statusCode" in value:
        return _of_object(value)
    if is_stream(value):
        return None, value
    return JSON_HEAD, to_json(value)


def is_stream(value):
    return hasattr(value, "__next__") or hasattr(value, "__anext__")


def stream_head(first):
    """(head, first bytes) of a stream whose first item is `first`."""
    if isinstance(first, dict) and "statusCode" in first:
        head, body = _of_object(first)
        if not isinstance(body, bytes):
            raise BadResponse("the first item of a stream can't have a stream as its body")
        return head, body
    return (TEXT_HEAD if isinstance(first, str) else BYTES_HEAD), item(first)


def item(value):
    """One item of a stream as bytes. Raises BadResponse."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise BadResponse(f"a stream's items are text or bytes, not {type(value).__name__}")


def _of_object(value):
    status = value["statusCode"]
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise BadResponse(f"statusCode is to be a number from 200 to 599, not {status!r:.40}")
    lines = [str(int(status))]
    typed = False
    for key in ("headers", "multiValueHeaders"):
        headers = value.get(key)
        if headers is None:
            continue
        if not isinstance(headers, dict):
            raise BadResponse(f"{key} is to be an object, not {type(headers).__name__}")
        for name, content in headers.items():
            typed = _add(lines, name, content) or typed
    cookies = value.get("cookies")
    if cookies is not None:
        if not isinstance(cookies, (list, tuple)):
            raise BadResponse(f"cookies is to be a list, not {type(cookies).__name__}")
        _add(lines, "set-cookie", cookies)
    body = value.get("body")
    default = "application/json"
    if body is None:
        body = b""
    elif isinstance(body, str):
        body = _decode(body) if value.get("isBase64Encoded") else body.encode("utf-8", "replace")
    elif isinstance(body, (bytes, bytearray, memoryview)):
        body, default = bytes(body), "application/octet-stream"
    elif not is_stream(body):
        body = to_json(body)
    if status == 204 or status == 304:
        body = b""
    elif not typed:
        lines.append("content-type:" + default)
    return _latin("\n".join(lines)), body


def _add(lines, name, content):
    """Append a header, once per value; whether it is the content-type."""
    name = name.lower() if isinstance(name, str) else ""
    if _token(name) is None:
        raise BadResponse(f"{name!r:.80} is not a header's name")
    if name in _not_ours or content is None:
        return False
    for one in content if isinstance(content, (list, tuple)) else (content,):
        if isinstance(one, bool):
            text = "true" if one else "false"
        elif isinstance(one, (str, int, float)):
            text = str(one)
        else:
            raise BadResponse(f"the header {name} is to be text, not {type(one).__name__}")
        if _not_in_value(text) is not None:
            raise BadResponse(f"the header {name} has a line break or a NUL in it")
        lines.append(name + ":" + text)
    return name == "content-type"


def _decode(text):
    try:
        return a2b_base64(text.encode("ascii").translate(None, b" \t\r\n"), strict_mode=True)
    except (Base64Error, UnicodeEncodeError):
        raise BadResponse("the body is not base64, though isBase64Encoded says so") from None


def _latin(head):
    try:
        return head.encode("latin-1")
    except UnicodeEncodeError:
        return head.encode("utf-8", "replace")
