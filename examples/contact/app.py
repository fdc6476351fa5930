"""A contact form in Flask. It is the app that you would run anywhere: nothing in it knows its URL."""

import logging

from flask import Flask, make_response, redirect, render_template, request, url_for

FIELDS = {"name": 80, "email": 200, "message": 2000}  # characters

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 32 * 1024
app.logger.setLevel(logging.INFO)


@app.get("/")
def form():
    return render_template("form.html", values={"name": request.cookies.get("name", "")}, problems={})


@app.post("/")
def send():
    values = {field: request.form.get(field, "").strip() for field in FIELDS}
    problems = check(values)
    if problems:
        return render_template("form.html", values=values, problems=problems), 422
    # Here it would go into your database, or be mailed. It is also what `hearth logs contact` shows.
    app.logger.info("a message of %d characters from %s", len(values["message"]), values["email"])
    # url_for puts the prefix before it under which the function is reached (SCRIPT_NAME): /fn/ann/contact/thanks.
    # 303: the browser gets that page, and a reload doesn't send the form again.
    response = make_response(redirect(url_for("thanks"), 303))
    response.set_cookie(
        "name", values["name"], max_age=365 * 86400, httponly=True, samesite="Lax", secure=request.is_secure,
        path=request.script_root or "/",
    )
    return response


@app.get("/thanks")
def thanks():
    return render_template("thanks.html", name=request.cookies.get("name", ""))


@app.errorhandler(404)
def not_found(error):
    return render_template("not_found.html"), 404


def check(values):
    """What is wrong, by field."""
    problems = {field: "is missing" for field, value in values.items() if not value}
    for field, longest in FIELDS.items():
        if len(values[field]) > longest:
            problems[field] = f"is longer than {longest} characters"
    name, at, domain = values["email"].partition("@")
    if values["email"] and not (name and at and "." in domain) or any(map(str.isspace, values["email"])):
        problems.setdefault("email", "is no e-mail address")
    return problems
