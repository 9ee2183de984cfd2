"""The key `notify`: who hears of a run's end, and of which ends.

Owns the words for ends, the exit codes that each stands for, and what of a webhook's URL may be shown: whoever has all
of it can post there, so it is a secret. Refuses to send: that is `runner.notifying`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from runner.manifest.durations import as_seconds, written
from runner.manifest.parts import Part
from runner.manifest.problems import HIDDEN, Wrong, convert_at, shown, suggest, without_urls
from runner.manifest.values import as_text

Ending = Literal["done", "failed", "budget", "stopped"]

ENDINGS: Mapping[Ending, tuple[int, ...]] = {
    "done": (0,),
    "failed": (1, 2, 4, 6),
    "budget": (5,),
    "stopped": (7, 8, 130),
}
"""The exit codes that each word stands for: every code has one word. A run that could not begin tells nobody."""
DEFAULT_ON: tuple[Ending, ...] = ("done", "failed", "budget")
MAX_TIMEOUT_S = 300.0

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_EXAMPLE = "write https://HOST/PATH, or ${NAME} to take it from the environment when it is sent"


def ending_of(exit_code: int) -> Ending:
    """The word for a run that ended with this code."""
    return next((word for word, codes in ENDINGS.items() if exit_code in codes), "failed")


def shown_webhook(url: str) -> str:
    """What may be shown and put on record: `https://host/…`; the names of variables are no secret."""
    bare = _VARIABLE.sub("", url)
    if bare.strip("/") == "" or re.fullmatch(r"https?://[^/?#@]*/*", bare, re.IGNORECASE):
        return url
    host = _SCHEME.sub("", url).partition("/")[0].partition("?")[0].partition("#")[0].rpartition("@")[2]
    scheme = _SCHEME.match(url)
    return f"{scheme.group().lower()}{host}/{HIDDEN}" if scheme else HIDDEN


def is_hidden(url: str) -> bool:
    """Whether this is what a record has of a webhook, and not the webhook."""
    return url.endswith(HIDDEN)


def expanded(url: str, environment: Mapping[str, str]) -> str:
    """The URL with its variables.

    Raises:
        KeyError: one of them is not set, or empty; its name.
    """

    def value(found: re.Match[str]) -> str:
        text = environment.get(found[1], "").strip()
        if not text:
            raise KeyError(found[1])
        return text

    return _VARIABLE.sub(value, url)


def wrong_with(url: str) -> str | None:
    """Why nothing can be posted to a URL without variables, in words that do not repeat it; None if it can."""
    try:
        parts = urlsplit(url)
        host, port_is_fine = parts.hostname, parts.port is None or parts.port > 0
    except ValueError:
        return "it is no URL"
    if parts.scheme.lower() not in ("http", "https"):
        return "it does not begin with https:// or http://"
    if parts.username is not None or parts.password is not None:
        return "it has a name or a password before an @"
    if not host or not port_is_fine:
        return "it has no host"
    if not url.isascii() or not url.isprintable() or " " in url:
        return "it has characters that no URL can have"
    return None


def _webhook(raw: object) -> str:
    text = raw if isinstance(raw, str) else _text(raw, "a webhook's URL")
    text = text.strip()
    if is_hidden(text) and shown_webhook(text) == text:
        return text
    # What a variable stands for is known when it is sent; until then anything may.
    reason = None if _VARIABLE.match(text) else wrong_with(_VARIABLE.sub("1", text))
    if reason is not None:
        raise Wrong(f"this webhook cannot be used: {reason}", hint=_EXAMPLE)
    return text


def _text(raw: object, what: str) -> str:
    try:
        text = as_text(raw)
    except Wrong:
        text = None
    if not isinstance(text, str):
        raise Wrong(f"{what} is one text", hint=_EXAMPLE)
    return text


def _command(raw: object) -> tuple[str, ...]:
    if not isinstance(raw, (list, tuple)):
        raise Wrong(
            "`command` is a list: the program, then its arguments; no shell reads it",
            hint="write [sh, mail-report.sh], or [sh, -c, '...'] for a line of shell",
        )
    words = [convert_at((index,), as_text, one) for index, one in enumerate(raw)]
    if not words or not str(words[0]).strip():
        raise Wrong("the command has no program", hint="write e.g. [sh, mail-report.sh]")
    for index, word in enumerate(words):
        if "\0" in word:
            raise Wrong("no argument can have the character U+0000", hint="remove it", path=(index,))
    return tuple(words)


def _endings(raw: object) -> object:
    if raw in ([], ()):
        raise Wrong("no end is told of", hint=f"name some of {', '.join(ENDINGS)}, or remove `notify`")
    return raw if isinstance(raw, (list, tuple)) else [raw]


def _ending(raw: object) -> object:
    text = as_text(raw)
    if text not in ENDINGS:
        raise Wrong(f"{shown(text)} is no end of a run", hint=suggest(str(text), list(ENDINGS), what="it is one of"))
    return text


def _timeout(raw: object) -> float:
    value = as_seconds(raw)
    if not 0 < value <= MAX_TIMEOUT_S:
        raise Wrong(
            f"`timeout` must be more than 0 and at most {written(MAX_TIMEOUT_S)}, not {written(value)}",
            hint="the run waits for it; let a command that takes longer go on in the background",
        )
    return value


class Notify(Part):
    """Who hears of a run's end: a program, a web server, or both. `timeout` is read as seconds."""

    on: Annotated[tuple[Annotated[Ending, BeforeValidator(_ending)], ...], BeforeValidator(_endings)] = Field(
        default=DEFAULT_ON,
        description="ends to tell of: done (exit code 0), failed (1, 2, 4, 6), budget (5), stopped (7, 8, 130)",
    )
    command: Annotated[tuple[str, ...], BeforeValidator(_command)] | None = Field(
        default=None,
        description="a program and its arguments; it reads the summary as JSON from its standard input",
        examples=[["sh", "mail-report.sh"]],
    )
    webhook: Annotated[str, BeforeValidator(_webhook)] | None = Field(
        default=None,
        description="a URL that the summary is posted to as JSON; ${NAME} is taken from the environment",
        examples=["${SLACK_WEBHOOK}"],
    )
    timeout: Annotated[float, BeforeValidator(_timeout)] = Field(
        default=10.0, description="how long each is waited for, e.g. 30s; at most 5m", examples=["30s", "2m"]
    )

    @model_validator(mode="before")
    @classmethod
    def _is_a_mapping(cls, raw: Any) -> Any:
        """What stands here instead may be a URL, and is not repeated."""
        if not isinstance(raw, (dict, Notify)):
            raise Wrong(
                "`notify` must be a mapping", hint="write `notify: {webhook: URL}` or `notify: {command: [...]}`"
            )
        return raw

    @model_validator(mode="after")
    def _tells_someone(self) -> Self:
        if self.command is None and self.webhook is None:
            raise Wrong(
                "`notify` names neither a `command` nor a `webhook`",
                hint="add `command: [program, argument]` or `webhook: URL`, or remove `notify`",
                at_key=True,
            )
        return self


def notify_data(notify: Notify | None) -> dict[str, Any] | None:
    """The key as it may be shown and put on record: everything but what is secret of URLs."""
    if notify is None:
        return None
    data: dict[str, Any] = {"on": list(notify.on)}
    if notify.command is not None:
        data["command"] = [without_urls(word) for word in notify.command]
    if notify.webhook is not None:
        data["webhook"] = shown_webhook(notify.webhook)
    return {**data, "timeout": written(notify.timeout)}
