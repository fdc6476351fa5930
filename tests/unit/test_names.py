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
    check_secret,
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


@pytest.mark.parametrize("name", ["A", "_", "STRIPE_KEY", "A1", "PORTAL", "HEARTHSTONE", "MY_PATH", "A" * 64])
def test_good_secrets(name: str) -> None:
    assert check_secret(name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "1A", "A-B", "A.B", "A B", "A\n", "Ä", "A=B", "../A", "A\0", "A" * 65]
)
def test_bad_secrets(name: str) -> None:
    with pytest.raises(InvalidName, match="is not a name for a secret") as refused:
        check_secret(name)
    assert refused.value.hint


@pytest.mark.parametrize(
    "name", ["PORT", "PATH", "HOME", "HEARTH_", "HEARTH_URL", "LD_PRELOAD", "LD_LIBRARY_PATH"]
)
def test_names_with_a_meaning_are_no_secrets(name: str) -> None:
    with pytest.raises(InvalidName, match="a meaning of its own"):
        check_secret(name)


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
