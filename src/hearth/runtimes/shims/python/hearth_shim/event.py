"""A request head as the event of AWS Lambda's Function URLs, payload version 2.0.

https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
"""

from binascii import b2a_base64
from time import gmtime, time
from urllib.parse import unquote_plus

from .context import Context

_REMEMBERED = 256  # parsed header blocks and targets; a caller's next request often has the same
_REMEMBERED_SIZE = 4096  # bytes
_TEXT = ("application/json", "application/xml", "application/javascript", "application/x-www-form-urlencoded")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def fields(block):
    """Header lines as (name, value) pairs of text."""
    pairs = []
    for line in block.decode("latin-1").split("\n"):
        name, _, value = line.partition(":")
        pairs.append((name, value))
    return pairs


def is_text(content_type):
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind in _TEXT or kind.endswith(("+json", "+xml"))


class _Remember(dict):
    """A bounded cache: computes what is missing, forgets the oldest."""

    def __init__(self, compute):
        self._compute = compute

    def __missing__(self, key):
        value = self._compute(key)
        if len(key) <= _REMEMBERED_SIZE:
            if len(self) >= _REMEMBERED:
                try:
                    del self[next(iter(self))]
                except (KeyError, RuntimeError, StopIteration):
                    pass  # another thread was at it
            self[key] = value
        return value


class EventMaker:
    """Makes (event, context) of a stream."""

    def __init__(self, settings):
        self._settings = settings
        self._function = settings["function"]
        self._headers = _Remember(_read_headers)
        self._targets = _Remember(_read_target)
        self._date = (0, "")

    def context(self, stream):
        return Context(self._settings, stream, stream.head[0].decode("latin-1"))

    def event(self, stream, invocation):
        """The event; every part of it is the handler's own to change."""
        head = stream.head
        block = head[8] if len(head) > 8 else b""
        if block.startswith(b"x-request-id:"):  # the host puts first what no two requests have alike
            request_id, trace, *rest = block.split(b"\n", 2)
            headers, cookies, host, domain, agent, text = self._headers[rest[0] if rest else b""]
            headers = headers.copy()
            headers["x-request-id"] = request_id[13:].decode("latin-1")
            headers["traceparent"] = trace[12:].decode("latin-1")
        else:
            headers, cookies, host, domain, agent, text = self._headers[block]
            headers = headers.copy()
        path, query, parameters = self._targets[head[3]]
        now = time()
        second = int(now)
        date = self._date
        if date[0] != second:
            date = self._date = (second, _date(second))
        event = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "headers": headers,
            "requestContext": {
                "accountId": "anonymous",
                "apiId": self._function,
                "domainName": host,
                "domainPrefix": domain,
                "http": {
                    "method": head[2].decode("latin-1"),
                    "path": path,
                    "protocol": "HTTP/1.1",
                    "sourceIp": head[6].decode("latin-1"),
                    "userAgent": agent,
                },
                "requestId": invocation,
                "routeKey": "$default",
                "stage": "$default",
                "time": date[1],
                "timeEpoch": int(now * 1000),
            },
            "isBase64Encoded": False,
        }
        if cookies is not None:
            event["cookies"] = cookies.copy()
        if parameters is not None:
            event["queryStringParameters"] = parameters.copy()
        if head[5]:
            event["requestContext"]["authorizer"] = {"hearth": {"caller": head[5].decode("latin-1")}}
        if stream.chunks:
            self._body(event, stream.body(), text)
        return event

    def _body(self, event, body, text):
        if text:
            try:
                event["body"] = body.decode()
                return
            except UnicodeDecodeError:
                pass  # it is not what its content-type says
        event["body"] = b2a_base64(body, newline=False).decode()
        event["isBase64Encoded"] = True


def _date(second):
    t = gmtime(second)
    return (
        f"{t.tm_mday:02}/{_MONTHS[t.tm_mon - 1]}/{t.tm_year}:{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02} +0000"
    )


def _read_headers(block):
    headers, cookies = {}, None
    for name, value in fields(block) if block else ():
        if name == "cookie":
            found = [part.strip() for part in value.split(";") if part.strip()]
            cookies = found if cookies is None else cookies + found
        elif name in headers:
            headers[name] += "," + value
        else:
            headers[name] = value
    host = headers.get("host", "")
    if not host.startswith("["):
        host = host.partition(":")[0]
    text = is_text(headers.get("content-type", ""))
    return headers, cookies, host, host.partition(".")[0], headers.get("user-agent", ""), text


def _read_target(target):
    path, _, query = target.decode("latin-1").partition("?")
    if not query:
        return path, "", None
    parameters = {}
    for pair in query.split("&"):
        if not pair:
            continue
        if "%" in pair or "+" in pair:
            name, _, value = pair.partition("=")
            name, value = unquote_plus(name), unquote_plus(value)
        else:
            name, _, value = pair.partition("=")
        parameters[name] = parameters[name] + "," + value if name in parameters else value
    return path, query, parameters or None
