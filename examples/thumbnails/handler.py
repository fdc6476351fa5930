"""Thumbnails: POST a picture, get a small one. ?width=320&height=200&fit=cover&format=webp"""

import base64
import io
import json
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

TAKEN = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
GIVEN = {"webp": "image/webp", "jpeg": "image/jpeg", "png": "image/png"}
FITS = ("contain", "cover")  # the whole picture within the box; or the box filled, what is over cut off
SIDE_MAX = 1024

# A picture of a few kilobytes can unpack to gigabytes. Its size stands at its beginning: Pillow reads that first.
Image.MAX_IMAGE_PIXELS = 40_000_000
warnings.simplefilter("error", Image.DecompressionBombWarning)


class Problem(Exception):
    """What is wrong with a request: a status and a sentence."""


def handler(event, context):
    try:
        if event["requestContext"]["http"]["method"] != "POST":
            raise Problem(405, "send a POST with a picture as its body")
        box, fit, kind = read_query(event.get("queryStringParameters", {}))
        body = event.get("body", "")
        picture = thumbnail(base64.b64decode(body) if event["isBase64Encoded"] else body.encode(), box, fit, kind)
    except Problem as problem:
        status, message = problem.args
        headers = {"Content-Type": "application/json"}
        if status == 405:
            headers["Allow"] = "POST"
        if status == 415:
            headers["Accept"] = ", ".join(TAKEN.values())
        return {"statusCode": status, "headers": headers, "body": json.dumps({"error": message}) + "\n"}
    headers = {"Content-Type": GIVEN[kind], "X-Content-Type-Options": "nosniff"}
    return {"statusCode": 200, "headers": headers, "body": base64.b64encode(picture).decode(), "isBase64Encoded": True}


def read_query(query):
    """((width, height), fit, format) with defaults for what is not given. Raises Problem."""
    unknown = set(query) - {"width", "height", "fit", "format"}
    if unknown:
        raise Problem(400, f"there is no parameter {min(unknown)}: use width, height, fit, format")
    width = side(query, "width", 256)
    height = side(query, "height", width)
    return (width, height), choice(query, "fit", FITS), choice(query, "format", GIVEN)


def side(query, name, default):
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= SIDE_MAX):
        raise Problem(400, f"{name} is to be a number from 1 to {SIDE_MAX}")
    return int(text)


def choice(query, name, choices):
    value = query.get(name, next(iter(choices)))
    if value not in choices:
        raise Problem(400, f"{name} is to be one of {', '.join(choices)}")
    return value


def thumbnail(data, box, fit, kind):
    """A small picture, as bytes, of the first frame of the picture in `data`. Raises Problem."""
    try:
        with Image.open(io.BytesIO(data), formats=tuple(TAKEN)) as image:
            return shrink(image, box, fit, kind)
    except UnidentifiedImageError:
        raise Problem(415, f"the body is no picture of a kind that is taken: {', '.join(TAKEN.values())}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Problem(413, f"the picture has more than {Image.MAX_IMAGE_PIXELS // 1_000_000} million pixels") from None
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises for files that are cut off or odd
        raise Problem(422, f"the picture is damaged: {error}") from None


def shrink(image, box, fit, kind):
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    image.draft("RGB", (2 * max(box), 2 * max(box)))  # a JPEG can be read at half its size, or less
    ImageOps.exif_transpose(image, in_place=True)  # cameras store how they were held
    alpha = image.has_transparency_data
    if image.mode not in ("RGB", "RGBA"):
        image = image.convert("RGBA" if alpha else "RGB")
    if fit == "cover":
        image = ImageOps.fit(image, box)
    else:
        image.thumbnail(box)  # never larger than it was
    if alpha and kind == "jpeg":  # which knows no transparency
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image.getchannel("A"))
        image = white
    # The colour profile goes along, else colours would change. EXIF doesn't: it may say where the picture was taken.
    image.info.clear()
    out = io.BytesIO()
    image.save(out, kind, quality=82, icc_profile=profile)
    return out.getvalue()
