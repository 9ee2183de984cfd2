"""Where requests go, with which key, and how long they are waited for.

Owns what makes a base URL fit to carry a key. Refuses to connect, and to read the environment.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from runner.errors import InputError
from runner.provider.redact import Redaction
from runner.provider.translate import clean


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. The key is kept out of every text that is made of this."""

    provider: str
    base_url: str
    api_key: str = field(repr=False)

    @classmethod
    def checked(cls, provider: str, base_url: str, api_key: str, *, insecure: bool) -> Endpoint:
        """An endpoint whose URL is fit to carry a key.

        Raises:
            InputError: not an http(s) URL, one with the key in it, or plain HTTP to another machine without `insecure`.
        """
        keyless = Redaction(api_key, public=provider).text
        try:
            parts = urlsplit(base_url)
            host, port_is_fine = parts.hostname, parts.port is None or parts.port > 0
        except ValueError:
            parts, host, port_is_fine = urlsplit(""), None, False
        if parts.scheme not in ("http", "https") or not host or not port_is_fine:
            shown = keyless(clean(base_url.rpartition("@")[2]))  # what stands before an @ may be a password
            raise InputError(f"{shown!r} is not a base URL", hint="it looks like https://api.openai.com/v1")
        if parts.username or parts.password:
            raise InputError(
                f"the base URL of {keyless(host)} carries a password", hint="give the key with --api-key-env NAME"
            )
        if keyless(unquote(base_url)) != unquote(base_url):
            # It would be in every message that names the URL, and in the ledger.
            raise InputError("the base URL has the key in it", hint="leave it out: the key goes into a header")
        if parts.query or parts.fragment:
            raise InputError(f"the base URL of {host} has a query or a fragment", hint="it ends in a path such as /v1")
        if parts.scheme == "http" and not is_loopback(host) and not insecure:
            raise InputError(
                f"the base URL {clean(base_url)} is plain HTTP: key and prompts would cross the network in the clear",
                hint="use https://, or --insecure if that network is yours",
            )
        return cls(provider, base_url.rstrip("/"), api_key)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait, in seconds: for a connection, the first byte, the next byte, and the whole answer."""

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    stall_s: float = 60.0
    total_s: float = 600.0


def is_loopback(host: str) -> bool:
    """Whether a name or an address is this very machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
