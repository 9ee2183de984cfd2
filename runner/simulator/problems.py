"""The errors of the Images API as the simulator answers them: status, code, type, and words of its own.

Owns every error body. Refuses to know when an error is due.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from starlette.responses import Response


class Problem(Exception):
    """A request that is refused: nothing was generated, nothing is billed."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
        html: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = dict(headers or {})
        self.more = dict(more or {})
        self.html = html

    @property
    def counted_as(self) -> str:
        """The word under which the bill counts it."""
        return self.code or f"http_{self.status}"

    def response(self) -> Response:
        """The answer in the documented shape (or a proxy's HTML page)."""
        if self.html:
            page = (
                f"<html>\r\n<head><title>{self.message}</title></head>\r\n<body><h1>{self.message}</h1></body></html>"
            )
            return Response(page, self.status, self.headers, "text/html")
        return Response(json.dumps(self.document, indent=2), self.status, self.headers, "application/json")

    @property
    def document(self) -> dict[str, object]:
        """The documented shape, as it stands in an answer and in a line of a batch's error file."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code, **self.more}
        return {"error": error}


def invalid(message: str, param: str | None, code: str | None = "invalid_value") -> Problem:
    """400: the request itself is wrong."""
    return Problem(400, message, param=param, code=code)


def no_api_key() -> Problem:
    """401: no Authorization header."""
    return Problem(401, "No API key was given: send it as `Authorization: Bearer KEY` (the simulator takes any word).")


def wrong_api_key() -> Problem:
    """401: another key than the one that was asked for. The key itself is not repeated."""
    return Problem(401, "Incorrect API key provided.", code="invalid_api_key")


def model_not_found(model: str) -> Problem:
    """404: the model is not served."""
    return Problem(404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found")


def rate_limited(gate: str, message: str, retry_after_s: float | None) -> Problem:
    """429: slower. `gate` is `input-images`, `requests` or `tokens`; None for no Retry-After."""
    headers = {}
    if retry_after_s is not None:
        headers = {
            "retry-after": str(math.ceil(retry_after_s)),
            "retry-after-ms": str(math.ceil(retry_after_s * 1000)),
        }
    return Problem(429, message, type=gate, code="rate_limit_exceeded", headers=headers)


def insufficient_quota() -> Problem:
    """429 that no waiting ends."""
    return Problem(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        type="insufficient_quota",
        code="insufficient_quota",
    )


def billing_hard_limit() -> Problem:
    """400: the account's spending limit."""
    return Problem(
        400,
        "Billing hard limit has been reached.",
        type="billing_limit_user_error",
        code="billing_hard_limit_reached",
    )


def unverified(model: str) -> Problem:
    """403: the organisation is not verified."""
    return Problem(403, f"Your organization must be verified to use the model `{model}`.")


def moderation_blocked() -> Problem:
    """400: the prompt was refused by moderation."""
    return Problem(
        400,
        "Your request was rejected by the safety system (a simulated refusal).",
        type="image_generation_user_error",
        code="moderation_blocked",
        more={"moderation_details": {"moderation_stage": "input", "categories": ["simulated"]}},
    )


def of_status(status: int, model: str) -> Problem:
    """What an HTTP status usually says."""
    match status:
        case 401:
            return wrong_api_key()
        case 403:
            return unverified(model)
        case 404:
            return model_not_found(model)
        case 429:
            return rate_limited("requests", f"Rate limit reached for {model} on requests per min.", 1.0)
        case 502:
            return Problem(502, "502 Bad Gateway", html=True)
        case _ if status >= 500:
            return Problem(status, "The server had an error while processing the request.", type="server_error")
        case _:
            return Problem(status, f"The request was refused with status {status}.", code=None)
