"""A QR code as SVG: GET /?text=https://example.com"""

import io

import segno


def handler(event, context):
    text = (event.get("queryStringParameters") or {}).get("text", "https://example.com")
    picture = io.BytesIO()
    segno.make(text, micro=False).save(picture, kind="svg", scale=4)
    print(f"made a code for {len(text)} characters")
    return {"statusCode": 200, "headers": {"content-type": "image/svg+xml"}, "body": picture.getvalue().decode()}
