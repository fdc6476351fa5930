"""Names of namespaces, functions and people."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hearth.core.errors import InvalidInput, InvalidName
from hearth.core.names import (
    check_email,
    check_function,
    check_namespace,
    namespace_from_email,
    split_reference,
)


@pytest.mark.parametrize("name", ["abc", "a-b", "a1-2-3", "a" * 30])
def test_good_names(name: str) -> None:
    assert check_namespace(name) == check_function(name) == name


@pytest.mark.parametrize(
    "name", ["", "ab", "A-b", "1ab", "-ab", "ab-", "a--b", "a_b", "a.b", "abc\n", "ä-b", "a" * 31]
)
def test_bad_namespaces(name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        check_namespace(name)
    assert refused.value.hint


@pytest.mark.parametrize("name", ["", "xn", "xn--a", "a" * 32, "a/b"])
def test_bad_functions(name: str) -> None:
    with pytest.raises(InvalidName):
        check_function(name)


def test_references() -> None:
    assert split_reference("hello", "jo-fn") == ("jo-fn", "hello")
    assert split_reference("ada/hello", "jo-fn") == ("ada", "hello")
    for text, default in (("hello", None), ("a/b/c", "jo-fn"), ("/hello", "jo-fn"), ("ada/", None)):
        with pytest.raises(InvalidName):
            split_reference(text, default)


@pytest.mark.parametrize(
    ("email", "name"),
    [
        ("jo@x.org", "jo-fn"),
        ("Jo.B@x.org", "jo-b"),
        ("7up@x.org", "u-7up"),
        ("_@x.org", "u-fn"),
        ("a..b@x", "a-b"),
    ],
)
def test_namespaces_from_emails(email: str, name: str) -> None:
    assert namespace_from_email(email) == name


@given(st.emails() | st.text(max_size=80))
def test_every_email_makes_a_good_namespace(email: str) -> None:
    name = check_namespace(namespace_from_email(email))
    assert check_namespace(f"{name[:26].rstrip('-')}-999")


@given(st.emails())
def test_emails_have_one_form(email: str) -> None:
    if len(email) <= 254 and email.isascii():
        assert check_email(f" {email} ") == check_email(email.lower())


@pytest.mark.parametrize(
    "text", ["", "jo", "@x", "jo@", "a@b@c", "a b@c", "a@b\x00", "a@b\n c", "\ud800@b", "a" * 65 + "@b"]
)
def test_bad_emails(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check_email(text)
    assert str(refused.value).isascii()
