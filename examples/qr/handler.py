"""A QR code as SVG: GET /?text=https://example.com"""

import io

import segno


def handler(event, context):
    text = event.get("queryStringParameters", {}).get("text", "https://example.com")
    try:
        code = segno.make_qr(text)
    except ValueError as error:  # nothing in it, or more than a code can hold
        return {"statusCode": 400, "headers": {"Content-Type": "text/plain"}, "body": f"{error}\n"}
    picture = io.BytesIO()
    code.save(picture, kind="svg", scale=4)
    print(f"made a code for {len(text)} characters")
    return {"statusCode": 200, "headers": {"Content-Type": "image/svg+xml"}, "body": picture.getvalue().decode()}
