"""Receives webhooks that are signed as https://www.standardwebhooks.com describes, and believes no others."""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import os
import time
from pathlib import Path

TOLERANCE = 300  # seconds that the sender's clock may be off; what is older may be a replay

logging.getLogger().setLevel(logging.INFO)
log = logging.getLogger("webhook")


class Refused(Exception):
    """The delivery is not from who knows the key, or not from now."""


def read_keys(text):
    """The keys in a secret: base64, with or without ``whsec_`` before it.

    There may be two, with a space between: while a key is changed, the old one and the new one both count.
    """
    try:
        keys = [base64.b64decode(word.removeprefix("whsec_"), validate=True) for word in text.split()]
    except binascii.Error as error:
        raise ValueError(f"WEBHOOK_KEY is not base64: {error}") from None
    if not keys or min(map(len, keys)) < 16:
        raise ValueError("WEBHOOK_KEY is shorter than 16 bytes; make one with: openssl rand -base64 32")
    return keys


def secret(name):
    """A secret's text: in a sandbox it is a file; on your own machine a variable will do."""
    file = Path("/run/secrets", name)
    return file.read_text() if file.is_file() else os.environ.get(name, "")


# Read when the code is loaded: a deploy without a usable key fails, and the version before it goes on answering.
KEYS = read_keys(secret("WEBHOOK_KEY"))


def verify(headers, body, keys, now):
    """Check who sent `body` (bytes), and when; returns the delivery's id.

    Args:
        headers: the request's, with names in lower case.
        now: seconds since 1970.

    Raises Refused: the reason is for our log. The sender is not told it: who guesses learns nothing.
    """
    delivery = headers.get("webhook-id", "")
    sent = headers.get("webhook-timestamp", "")
    if not delivery or not (sent.isascii() and sent.isdecimal() and len(sent) < 20):
        raise Refused("no webhook-id, or no webhook-timestamp that is a time")
    if abs(now - int(sent)) > TOLERANCE:
        raise Refused(f"sent {now - int(sent):.0f} seconds ago")
    # The bytes as they came: parsing JSON and writing it again would give others.
    signed = f"{delivery}.{sent}.".encode() + body
    wanted = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in keys]
    given = [word[3:].encode() for word in headers.get("webhook-signature", "").split() if word.startswith("v1,")]
    # compare_digest takes as long for a wrong first byte as for a wrong last one, == doesn't.
    if not any(hmac.compare_digest(one, other) for one in wanted for other in given):
        raise Refused("no signature fits")
    return delivery


def handler(event, context):
    if event["requestContext"]["http"]["method"] != "POST":
        return answer(405, {"error": "send a POST"}, Allow="POST")
    body = event.get("body", "")
    body = base64.b64decode(body) if event["isBase64Encoded"] else body.encode()
    try:
        delivery = verify(event["headers"], body, KEYS, time.time())
    except Refused as error:
        log.warning("refused: %s", error)
        return answer(401, {"error": "the signature is missing, wrong or too old"})
    try:
        message = json.loads(body)
        kind, data = message["type"], message["data"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return answer(400, {"error": 'the body is to be JSON like {"type": "invoice.paid", "data": {}}'})
    take(delivery, kind, data)
    return answer(200, {"received": delivery})


def take(delivery, kind, data):
    """Your own work goes here; answer soon, since a sender that waits too long sends again.

    A sender sends again whenever it is not sure that we heard it, and within TOLERANCE so can anybody who has
    listened. So do each delivery once: insert `delivery` into a table where it is unique, in the transaction
    that does the work. A dictionary here would not do: there are several instances, and none lives long.
    """
    if kind == "invoice.paid":
        log.info("%s: invoice %s is paid", delivery, data.get("id") if isinstance(data, dict) else data)
    else:
        log.info("%s: nothing to do for %r", delivery, kind)  # still a 200: sending it again would not help


def answer(status, value, **headers):
    headers = {"Content-Type": "application/json", **headers}
    return {"statusCode": status, "headers": headers, "body": json.dumps(value) + "\n"}
