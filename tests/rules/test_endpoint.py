"""What the check of a base URL must hold: no key crosses a network in the clear, and none is ever shown."""

from __future__ import annotations

import pytest

from runner.errors import InputError
from runner.provider.endpoint import Endpoint

KEY = "sk-proj-Abc123_def-456GHI789"
SECRET = "hunter2"


def checked(base_url: str, *, insecure: bool = False) -> Endpoint:
    return Endpoint.checked("openai", base_url, KEY, insecure=insecure)


def refused(base_url: str, *, insecure: bool = False) -> InputError:
    """The error with which a base URL is refused: one line that shows no secret, and what to do."""
    with pytest.raises(InputError) as caught:
        checked(base_url, insecure=insecure)
    error = caught.value
    assert error.hint
    assert error.message.isprintable()
    assert KEY not in str(error)
    assert SECRET not in str(error)
    return error


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.openai.com/v1",
        "https://gateway.example:8443/v1",
        "HTTPS://API.OPENAI.COM/v1",
        "https://192.0.2.1/v1",
        "https://[2001:db8::1]/v1",
        "http://localhost:8080/v1",
        "http://LOCALHOST/v1",
        "http://127.0.0.1:8080/v1",
        "http://127.8.9.10/v1",
        "http://[::1]/v1",
        "http://[::1]:8080/v1",
        "http://[0:0:0:0:0:0:0:1]:8080/v1",
    ],
)
def test_https_anywhere_and_plain_http_to_this_machine(base_url: str) -> None:
    """A key may travel encrypted, or not at all."""
    endpoint = checked(base_url)
    assert (endpoint.provider, endpoint.base_url, endpoint.api_key) == ("openai", base_url, KEY)


PLAIN = [
    "http://api.openai.com/v1",
    "http://192.168.1.5:8080/v1",
    "http://10.0.0.1/v1",
    "http://0.0.0.0/v1",
    "http://[2001:db8::1]/v1",
    "http://[::]/v1",
    "http://localhost.example.com/v1",
    "http://127.0.0.1.example.com/v1",
    "http://example.com/127.0.0.1",
    "HTTP://example.com/v1",
]


@pytest.mark.parametrize("base_url", PLAIN)
def test_plain_http_to_another_machine_is_refused(base_url: str) -> None:
    """Also where the name of this machine is only a part of the address; the message says what to do."""
    error = refused(base_url)
    assert base_url in error.message
    assert "plain HTTP" in error.message
    assert error.hint is not None
    assert "--insecure" in error.hint


@pytest.mark.parametrize("base_url", PLAIN)
def test_plain_http_is_taken_when_the_user_says_so(base_url: str) -> None:
    """--insecure is the user's own decision."""
    assert checked(base_url, insecure=True).base_url == base_url


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize(
    "base_url",
    [
        f"https://user:{SECRET}@api.openai.com/v1",
        f"https://{SECRET}@api.openai.com/v1",
        f"https://:{SECRET}@api.openai.com/v1",
        f"http://user:{SECRET}@localhost/v1",
        f"http://127.0.0.1:{SECRET}@example.com/v1",
        "http://localhost@example.com/v1",
        f"https://user:{SECRET}\\@example.com/v1",
    ],
)
def test_a_url_that_carries_a_name_or_password_is_refused(base_url: str, insecure: bool) -> None:
    """It would stand in the ledger and in every log; and what stands before an @ is no host."""
    error = refused(base_url, insecure=insecure)
    assert "password" in error.message
    assert error.hint is not None
    assert "--api-key-env" in error.hint


@pytest.mark.parametrize("insecure", [False, True])
@pytest.mark.parametrize(
    "base_url",
    [
        "",
        " ",
        "api.openai.com/v1",
        "api.openai.com:443/v1",
        "//api.openai.com/v1",
        "ftp://api.openai.com/v1",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://",
        "https:///v1",
        "https://:443/v1",
        "https:api.openai.com",
        "https://api.openai.com:0/v1",
        "https://api.openai.com:99999/v1",
        "https://api.openai.com:port/v1",
        "https://[::1/v1",
        "https://[not-an-address]/v1",
        "\x1b[31mhttps//\x1b[0m",
        f"ftp://user:{SECRET}@example.com/v1",
        f"https://user:{SECRET}@example.com:99999/v1",
        f"https://user:{SECRET}@[::1/v1",
        KEY,
    ],
)
def test_what_is_no_url_of_a_web_server_is_refused(base_url: str, insecure: bool) -> None:
    """With what a base URL looks like, and without repeating a secret that was put into it, or in its place."""
    error = refused(base_url, insecure=insecure)
    assert "is not a base URL" in error.message
    assert error.hint is not None
    assert "https://api.openai.com/v1" in error.hint


@pytest.mark.parametrize("ending", ["?key=hunter2", "#localhost", "/?x=1#y"])
def test_a_base_url_has_no_query_and_no_fragment(ending: str) -> None:
    """Requests add their path to it; and what stands in a query may be a secret."""
    for base in ("https://example.com/v1", "http://example.com", "http://localhost"):
        assert "query or a fragment" in refused(base + ending, insecure=True).message


@pytest.mark.parametrize("ending", ["/", "//"])
def test_a_slash_at_the_end_makes_no_difference(ending: str) -> None:
    """The same server has one name in the ledger."""
    assert checked(f"https://api.openai.com/v1{ending}").base_url == "https://api.openai.com/v1"


def test_the_key_is_never_shown() -> None:
    """However an endpoint is turned into text, its key is not part of it."""
    endpoint = checked("https://api.openai.com/v1")
    for text in (repr(endpoint), str(endpoint), f"{endpoint}", f"{[endpoint]!r}", f"{ ({'e': endpoint}) }"):
        assert "api.openai.com" in text
        assert KEY not in text
        assert KEY[8:20] not in text
