"""The gallery as one HTML file: template, style, script and data put together, and the policy that allows just them.

Owns what the page may do (its Content Security Policy). Refuses to write the file, and to know what choices mean.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from runner.ledger import Job, Ledger
from runner.report.gallery import data
from runner.report.gallery.links import Links

_SCRIPTS = ("base.js", "panes.js", "lightbox.js", "sheet.js", "gallery.js", "results.js")
_STYLES = ("gallery.css", "results.css")
_PAGES = files("runner.report.gallery") / "pages"


def page(
    ledger: Ledger,
    job: Job,
    *,
    links: Links,
    now: dt.datetime,
    results: Mapping[str, Any] | None = None,
    review: Mapping[str, Any] | None = None,
    has_tiles: bool = True,
) -> Iterator[str]:
    """The page, in pieces, from one snapshot of the ledger. `now` is aware.

    `results` and `review` reach the page's script as they are; with `review` it can choose, and ask the server that it
    came from. Without `has_tiles` it names no image: a blind review shows them one by one.
    """
    script = _joined((*_SCRIPTS, "review.js") if review is not None else _SCRIPTS)
    style = _joined((*_STYLES, "review.css") if review is not None else _STYLES)
    head = {
        "job": job.name,
        "made": now.astimezone(dt.UTC).isoformat(timespec="seconds"),
        "wanted": job.wanted,
        "results": results,
        "review": review,
    }
    with ledger.tiles(job) as tiles:
        relatives = ledger.relatives(job) if has_tiles else ()
        pieces = data.document(head, tiles if has_tiles else (), relatives, links)
        yield from _template().generate(
            job=job.name,
            policy=_policy(style, script, has_server=review is not None),
            style=Markup(style),  # noqa: S704 - a file of this package
            script=Markup(script),  # noqa: S704 - a file of this package
            # Encoded so that nothing in it is markup.
            data=map(Markup, pieces),
            review=review,
        )


def _policy(style: str, script: str, *, has_server: bool) -> str:
    """Nothing is loaded but images, nothing runs but this very script, and nothing is sent anywhere."""
    rules = [
        "default-src 'none'",
        "img-src 'self' file: data:",
        f"style-src {_hash(style)}",
        f"script-src {_hash(script)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    if has_server:
        rules.append("connect-src 'self'")
    return "; ".join(rules)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _joined(names: tuple[str, ...]) -> str:
    return "".join(map(_read, names))


def _read(name: str) -> str:
    return (_PAGES / name).read_text("utf-8")


@cache
def _template() -> Any:
    names = ("gallery.html", "review.html")
    environment = Environment(
        loader=DictLoader({name: _read(name) for name in names}), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("gallery.html")
