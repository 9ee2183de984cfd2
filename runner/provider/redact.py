"""Keeps the API key out of every text that leaves `provider`, in whatever dress a gateway repeats it.

Owns what counts as a trace of the key. Refuses to know errors and answers: it takes text and gives text.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable
from urllib.parse import quote, unquote

KEY_SHOWN_AS = "[key]"
WINDOW_CHARS = 8
"""So many characters of a key in a row are a trace of it: texts are cut, and a cut key is still most of a key."""
LEAST_KEY_CHARS = 4
"""What is shorter is a word that a simulator takes for a key, and no secret."""

_BACKSLASHED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)


class Redaction:
    """Takes one key out of texts. `public` is a word that is no secret even where it serves as the key."""

    def __init__(self, key: str, *, public: str = "") -> None:
        secret = key if len(key) >= LEAST_KEY_CHARS and key != public else ""
        self._windows: frozenset[str] = frozenset()
        self._word: re.Pattern[str] | None = None
        if len(secret) >= WINDOW_CHARS:
            # A key of 8 to 11 characters is found whole only: its parts are too near to ordinary words.
            self._size = WINDOW_CHARS if len(secret) >= WINDOW_CHARS * 3 // 2 else len(secret)
            self._windows = frozenset(
                form[start : start + self._size]
                for form in _forms(secret)
                for start in range(len(form) - self._size + 1)
            )
        elif secret:
            # So short a key can stand inside a word by chance: only by itself it is one.
            self._word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])")

    def text(self, text: str) -> str:
        """`text` with `[key]` for each trace of the key; `text` itself where there is none."""
        if not self._windows and self._word is None:
            return text
        bare = text
        for undress in _DRESSES * _LAYERS:
            bare = undress(bare)
            if bare != text and self._hits(bare):
                text = bare
        if self._word is not None:
            return self._word.sub(KEY_SHOWN_AS, text)
        return self._without_windows(text)

    def optional(self, text: str | None) -> str | None:
        """The same, of a text that may be missing."""
        return None if text is None else self.text(text)

    def _hits(self, text: str) -> bool:
        if self._word is not None:
            return self._word.search(text) is not None
        return any(text[at : at + self._size] in self._windows for at in range(len(text) - self._size + 1))

    def _without_windows(self, text: str) -> str:
        parts: list[str] = []
        clean_from = covered_to = 0
        for at in range(len(text) - self._size + 1):
            if text[at : at + self._size] not in self._windows:
                continue
            if at > covered_to or not parts:
                parts += [text[clean_from:at], KEY_SHOWN_AS]
            clean_from = covered_to = at + self._size
        return "".join((*parts, text[clean_from:])) if parts else text


def _forms(key: str) -> set[str]:
    """The key as it is, and as the encodings write it that leave no single character as it was."""
    raw = key.encode()
    forms = {key, raw.hex(), raw.hex().upper(), quote(key, safe="")}
    for before in range(3):
        # In base64 a key looks different in each of the three places of a group. Characters that also stand for its
        # neighbours' bits are left out.
        text = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")
        whole = (before + len(raw)) * 8 // 6
        text = text[-(-before * 8 // 6) : whole]
        forms |= {text, text.replace("+", "-").replace("/", "_")}
    return forms


def _unescaped(text: str) -> str:
    """`text` without the backslashes of JSON and of Python."""
    if "\\" not in text:
        return text
    return _BACKSLASHED.sub(
        lambda found: chr(int(found[1] or found[2], 16)) if found[1] or found[2] else found[3], text
    )


_DRESSES: tuple[Callable[[str], str], ...] = (_unescaped, html.unescape, unquote)
_LAYERS = 3
"""So often what is escaped can have been escaped once more, as in the text of an error that quotes one."""
