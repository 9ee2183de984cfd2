"""Who may ask at all: whoever has the address with its token, from this machine, and no other page in the browser.

Owns what is refused before anything is looked up, and the headers that every answer has. Refuses to know what is asked.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runner.review.wire import MOST_BODY_BYTES

_HEADERS = {
    # The page brings a stricter one of its own, which knows its script.
    "content-security-policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; object-src 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def refusal(status: int, error: str, hint: str | None = None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that says what is wrong, and what to do next."""
    return JSONResponse({"error": error, "hint": hint}, status_code=status, headers=dict(headers or {}))


class Guard:
    """Lets through to `app` what may be asked. `port` is where the server listens."""

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            return
        refused = self._refused(scope)
        await (refused or self._app)(scope, receive, answer)

    def _refused(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        # A page of another site whose name leads to this machine would ask under that name.
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return refusal(421, "this server answers under its own address alone", "use the line that runner printed")
        if scope["method"] not in ("GET", "POST"):
            return refusal(405, "only GET and POST are understood", headers={"allow": "GET, POST"})
        if not self._knows_token(scope["query_string"]):
            return refusal(403, "the address lacks its token", "use the whole line that `runner review` printed last")
        own = [f"http://{host}" for host in hosts]
        if any(origin.lower() not in own for origin in headers.getlist("origin")):
            return refusal(403, "another page may neither look nor choose", "use the page itself")
        return self._refused_post(headers) if scope["method"] == "POST" else None

    def _refused_post(self, headers: Headers) -> JSONResponse | None:
        if any(site != "same-origin" for site in headers.getlist("sec-fetch-site")):
            return refusal(403, "another page may not choose", "use the page itself")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refusal(415, "a choice is sent as application/json")
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > MOST_BODY_BYTES:
            return refusal(413, f"a choice has at most {MOST_BODY_BYTES} bytes")
        return None

    def _knows_token(self, query: bytes) -> bool:
        try:
            said = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=20)
        except ValueError:
            return False
        tokens = [value.encode("utf-8", "surrogatepass") for name, value in said if name == "token"]
        return len(tokens) == 1 and hmac.compare_digest(tokens[0], self._token)
