"""The examples that are web applications and APIs: FastAPI, Flask, Go with a router, server-sent events."""

from __future__ import annotations

import json
import re
import shutil
import time
from http.cookies import SimpleCookie
from urllib.parse import urlencode

import pytest

from tests.e2e.examples import EXAMPLES, FORM, Deployed, connected, post, post_json
from tests.e2e.platform import Platform, until

pytestmark = [pytest.mark.root, pytest.mark.network]


# --- invoices (FastAPI) ------------------------------------------------------------------------------------------

INVOICE = json.loads((EXAMPLES / "invoices" / "event.json").read_text())


def test_invoices(platform: Platform, deployed: Deployed) -> None:
    path = deployed("invoices")
    answer = post_json(platform, f"{path}/totals", INVOICE)
    assert (answer.status, answer.json()) == (200, {"net": "37.50", "vat": "7.13", "gross": "44.63"})
    assert platform.call(f"{path}/rates/FR").json() == {"country": "FR", "percent": "20"}


def test_invoices_says_what_is_wrong(platform: Platform, deployed: Deployed) -> None:
    path = deployed("invoices")
    line = {"description": "", "quantity": 0, "unit_price": "1.234", "vat": 7}
    answer = post_json(platform, f"{path}/totals", {"country": "de", "lines": [line]})
    assert answer.status == 422
    places = {".".join(map(str, problem["loc"])) for problem in answer.json()["detail"]}
    assert places == {"body.country", *(f"body.lines.0.{name}" for name in line)}
    assert post(platform, f"{path}/totals", b"{", "application/json").status == 422
    assert post_json(platform, f"{path}/totals", {"country": "DE", "lines": []}).status == 422
    for unknown in (platform.call(f"{path}/rates/XX"), platform.call(f"{path}/none")):
        assert (unknown.status, set(unknown.json())) == (404, {"detail"})
    assert platform.call(f"{path}/totals").status == 405


def test_invoices_page_and_description_know_the_prefix(platform: Platform, deployed: Deployed) -> None:
    path = deployed("invoices")
    page = platform.call(path)  # redirected to /docs
    assert page.status == 200
    (described,) = re.findall(r"url: '([^']+)'", page.body.decode())
    assert described == f"{path}/openapi.json"
    # The page has an origin of its own, as every page of a function on the platform's host.
    description = platform.call(described, Origin="null")
    assert description.headers["Access-Control-Allow-Origin"] == "*"
    said = description.json()
    assert said["servers"] == [{"url": path}]
    assert set(said["paths"]) == {"/totals", "/rates/{country}"}
    asked = platform.call(
        f"{path}/totals",
        method="OPTIONS",
        Origin="null",
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers="content-type",
    )
    assert (asked.status, asked.headers["Access-Control-Allow-Origin"]) == (200, "*")


# --- contact (Flask) ---------------------------------------------------------------------------------------------


def test_contact_is_sent(platform: Platform, deployed: Deployed) -> None:
    path = deployed("contact")
    form = platform.call(path)
    assert f'action="{path}/"' in form.body.decode()
    fields = {"name": "Änn <b>", "email": "ann@example.com", "message": "Hello there"}
    with connected(platform) as connection:
        connection.request("POST", f"{path}/", urlencode(fields), {"Content-Type": FORM})
        sent = connection.getresponse()
        sent.read()
        assert (sent.status, sent.getheader("Location")) == (303, f"{path}/thanks")
        cookie = SimpleCookie(sent.getheader("Set-Cookie"))["name"]
    assert (cookie["path"], cookie["samesite"], cookie["httponly"]) == (path, "Lax", True)
    thanks = platform.call(f"{path}/thanks", Cookie=f"name={cookie.coded_value}")
    assert "Thank you, Änn &lt;b&gt;" in thanks.body.decode()
    assert "Änn &lt;b&gt;" in platform.call(path, Cookie=f"name={cookie.coded_value}").body.decode()
    invocation = str(sent.getheader("X-Hearth-Invocation"))
    until(lambda: "from ann@example.com" in platform.cli("logs", "contact", "--invocation", invocation))


def test_contact_says_what_is_wrong(platform: Platform, deployed: Deployed) -> None:
    path = deployed("contact")
    wrong = urlencode({"name": '"><script>', "email": "no", "message": "x" * 3000}).encode()
    answer = post(platform, path, wrong, FORM)
    page = answer.body.decode()
    assert answer.status == 422
    assert "is no e-mail address" in page and "is longer than 2000" in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert post(platform, path, b"", FORM).body.count(b"is missing") == 3
    assert post(platform, path, b"message=" + bytes(40_000), FORM).status == 413
    missing = platform.call(f"{path}/none")
    assert missing.status == 404
    assert f'href="{path}/"' in missing.body.decode()
    assert platform.call(path, method="PUT").status == 405


# --- shipping (Go) -----------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)  # the first Go function of a platform waits for Go's own library to be compiled
def test_shipping(platform: Platform, deployed: Deployed) -> None:
    path = deployed("shipping")
    event = json.loads((EXAMPLES / "shipping" / "event.json").read_text())
    answer = post_json(platform, f"{path}/quotes", event)
    assert (answer.status, answer.json()) == (200, {**event, "cents": 1319})
    names = [zone["name"] for zone in platform.call(f"{path}/zones").json()["zones"]]
    assert names == ["home", "eu", "world"]
    assert platform.call(f"{path}/zones/home").json()["countries"] == ["DE"]
    head = platform.call(f"{path}/zones/home", method="HEAD")
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "application/json", b"")
    assert "POST /quotes" in platform.call(path).json()["routes"]


BAD_QUOTES = {
    b"": ("bad_json", 400),
    b"{": ("bad_json", 400),
    b"[]": ("bad_json", 400),
    b'{"zone": "eu", "grams": "2"}': ("bad_json", 400),
    b'{"zone": "eu", "grams": 2, "to": "x"}': ("bad_json", 400),
    b'{"zone": "eu", "grams": 2} {}': ("bad_json", 400),
    b'{"zone": "moon", "grams": 2}': ("unknown_zone", 422),
    b'{"zone": "eu", "grams": 0}': ("bad_weight", 422),
    b'{"zone": "world", "grams": 20001}': ("bad_weight", 422),
    b'{"zone": "%s"}' % (b"x" * 20_000): ("too_large", 413),
}


@pytest.mark.parametrize("body", BAD_QUOTES, ids=lambda body: body[:40].decode())
def test_shipping_says_what_is_wrong(platform: Platform, deployed: Deployed, body: bytes) -> None:
    answer = post(platform, f"{deployed('shipping')}/quotes", body, "application/json")
    assert (answer.json()["error"]["code"], answer.status) == BAD_QUOTES[body]
    assert "main." not in answer.json()["error"]["message"]  # nothing of Go's own names


def test_shipping_other_errors_are_json_too(platform: Platform, deployed: Deployed) -> None:
    path = deployed("shipping")
    for place, code in (
        ("/none", "not_found"),
        ("/zones/moon", "unknown_zone"),
        ("/zones/eu/x", "not_found"),
    ):
        answer = platform.call(path + place)
        assert (answer.status, answer.headers["Content-Type"]) == (404, "application/json")
        assert answer.json()["error"]["code"] == code
    answer = platform.call(f"{path}/zones", method="DELETE")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert answer.json()["error"]["code"] == "method_not_allowed"
    assert post(platform, f"{path}/quotes", b"zone=eu", FORM).status == 415


# --- countdown (server-sent events) ------------------------------------------------------------------------------


def events(text: str) -> list[dict[str, str]]:
    """The events of a stream, each as its fields."""
    blocks = [[line for line in block.splitlines() if line[:1] != ":"] for block in text.split("\n\n")]
    found = [dict(line.split(": ", 1) for line in block) for block in blocks if block]
    return [event for event in found if "data" in event]


def test_countdown_to_its_end(platform: Platform, deployed: Deployed) -> None:
    answer = platform.call(f"{deployed('countdown')}?seconds=1&every=0.2")
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.headers["Cache-Control"] == "no-store"
    told = events(answer.body.decode())
    assert {event["event"] for event in told[:-1]} == {"tick"} and told[-1]["event"] == "done"
    assert len({event["id"] for event in told}) == 1


def test_countdown_goes_on_where_it_was(platform: Platform, deployed: Deployed) -> None:
    path = deployed("countdown")
    end = str(int(time.time() * 1000) + 600)
    told = events(platform.call(f"{path}?seconds=600&every=0.1", Last_Event_ID=end).body.decode())
    assert {event["id"] for event in told} == {end} and told[-1]["event"] == "done"
    over = platform.call(path, Last_Event_ID=end)  # a browser that comes again is told to stay away
    assert (over.status, over.body) == (204, b"")


def test_countdown_ends_with_its_listener(platform: Platform, deployed: Deployed) -> None:
    path = deployed("countdown")
    with connected(platform) as connection:
        connection.request("GET", f"{path}?seconds=600&every=0.1")
        answer = connection.getresponse()
        assert answer.readline() == b"retry: 2000\n"
        invocation = str(answer.getheader("X-Hearth-Invocation"))
        answer.close()
    until(lambda: "the listener left after" in platform.cli("logs", "countdown", "--invocation", invocation))


def test_countdown_says_something_when_there_is_nothing_to_say(platform: Platform) -> None:
    folder = shutil.copytree(EXAMPLES / "countdown", platform.home / "patient")
    settings = (folder / "function.yaml").read_text()
    assert "name: countdown" in settings and "HEARTBEAT: 15" in settings
    (folder / "function.yaml").write_text(
        settings.replace("name: countdown", "name: patient").replace("HEARTBEAT: 15", "HEARTBEAT: 0.1")
    )
    platform.cli("deploy", str(folder))
    said = platform.call("/fn/ann/patient?seconds=1&every=60").body.decode()
    assert len(events(said)) == 2
    assert said.count(": still here\n\n") >= 2


@pytest.mark.parametrize(
    "query", ["seconds=0", "seconds=601", "seconds=x", "seconds=", "every=0", "every=61", "every=NaN"]
)
def test_countdown_refuses(platform: Platform, deployed: Deployed, query: str) -> None:
    assert platform.call(f"{deployed('countdown')}?{query}").status == 400


def test_countdown_of_another_method(platform: Platform, deployed: Deployed) -> None:
    answer = post(platform, deployed("countdown"), b"x", "text/plain")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
