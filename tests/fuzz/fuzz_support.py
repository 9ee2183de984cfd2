"""What the fuzz tests share: texts that were written to break things, mutations, how long to search, a watchdog.

Without a profile the same few examples are tried every time, so that a run means the same tomorrow. Under the profile
`long` each test tries many times as many, and other ones each time.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

WATCHDOG_S = 60
"""What takes longer than this has no end, as far as anyone can tell."""
LONG_FACTOR = 20

HOSTILE_TEXTS = [
    "",
    " ",
    ".",
    "..",
    "../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows\\system32",
    "C:\\autoexec.bat",
    "C:nul",
    "~",
    "~root/.ssh",
    "-rf",
    "--output=elsewhere",
    "CON",
    "con.png",
    "aux.txt",
    "NUL",
    "COM1",
    "lpt9.tar.gz",
    "a.",
    "a ",
    " a",
    ".hidden",
    "a\tb",
    "a\nb",
    "a\rb",
    "\r\n",
    "a\u2028b\u2029c\x85d",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\x00b",
    "\x7f",
    "\u202egnp.exe",
    "\u2066\u2069\u200e\u200f\u061c",
    "\ufeffbom",
    "é",
    "e\u0301",
    "ß",
    "SS",
    "İstanbul",
    "\u0131I",
    "\u017f",
    "K",  # the Kelvin sign
    "ﬀ",
    "a\u2215b",
    "a\uff0fb",
    "a\u29f8b",
    "\uff0e\uff0e/x",
    "👩‍👩‍👧‍👦",
    "🏴\u200d☠️",
    "🇩🇪",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032f\u031e\u0320\u034d",
    "ﷺ" * 100,
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt;",
    "'; DROP TABLE tasks; --",
    "=cmd|' /C calc'!A0",
    "+1+1",
    "@SUM(A1)",
    "-2+3",
    "%s%n%d{0}{x}",
    "${HOME} $(id) `id`",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{{ ''.__class__ }}",
    "{#",
    "*",
    "a?b",
    'a"b',
    "a|b<c>d:e",
    "null",
    "true",
    "1e400",
    "NaN",
    "-0",
    "0x10",
    "9" * 400,
    "1" * 5000,
    "a" * 300,
    "é" * 150,
    "👩" * 80,
    "x" * 32_000,
    "x" * 32_001,
    "-" * 70_000,
    "\ufffe\uffff",
    "\ud800",
    "\udfff\ud800",
]

ODD_NUMBERS: list[int | float] = [
    0,
    -1,
    1,
    2**31,
    2**63 - 1,
    2**63,
    10**18,
    10**19,
    10**40,
    0.1,
    -0.0,
    1e-320,
    1e-9,
    1e16,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
]

texts = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=40))
scalars = st.one_of(texts, st.sampled_from(ODD_NUMBERS), st.booleans(), st.none(), st.integers())
values = st.recursive(
    scalars,
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(texts, below, max_size=4)),
    max_leaves=8,
)


def is_long() -> bool:
    """Whether the search is the long one."""
    return settings.get_current_profile_name() == "long"


def search(examples: int, *, factor: int = LONG_FACTOR) -> settings:
    """How a test searches: `examples` of them, `factor` times as many in a long search."""
    return settings(
        max_examples=examples * factor if is_long() else examples,
        derandomize=not is_long(),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Fail what does not end, instead of waiting for it."""

    def bark(_signal: int, _frame: object) -> None:
        raise AssertionError(f"it has not ended after {WATCHDOG_S} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.alarm(WATCHDOG_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def paths_of(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a nest of dicts and lists, the top itself among them."""
    yield path
    below: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in below:
        yield from paths_of(each, (*path, key))


@st.composite
def disturbed(draw: st.DrawFn, original: Any, most: int = 3) -> Any:
    """A nest of dicts and lists in which up to `most` places are replaced, removed, repeated or added to."""
    made = json.loads(json.dumps(original))
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from([path for path in paths_of(made) if path]))
        holder = made
        for part in path[:-1]:
            holder = holder[part]
        what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "add", "swap"]))
        if what == "remove":
            del holder[path[-1]]
        elif what == "wrap":
            holder[path[-1]] = draw(st.sampled_from([lambda v: [v], lambda v: {"x": v}, lambda v: [v, v]]))(
                holder[path[-1]]
            )
        elif what == "swap":
            other = draw(st.sampled_from(list(paths_of(original))))
            found = original
            for part in other:
                found = found[part]
            holder[path[-1]] = json.loads(json.dumps(found))
        elif what == "add" and isinstance(holder[path[-1]], dict):
            holder[path[-1]][draw(texts)] = draw(values)
        elif what == "add" and isinstance(holder[path[-1]], list):
            holder[path[-1]].append(draw(values))
        else:
            holder[path[-1]] = draw(values)
        if not isinstance(made, dict) or not made:
            break
    return made


_PIECES = [
    b"\x00",
    b"\xff",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"\r",
    b"\r\n",
    b"\t",
    b"\n",
    b"\n\n",
    b" ",
    b'"',
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"{{",
    b"}}",
    b"{%",
    b"%}",
    b"{#",
    b":",
    b": ",
    b"- ",
    b"? ",
    b"#",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"!!python/object:os.system ",
    b"!x ",
    b"---\n",
    b"...\n",
    b"%YAML 9.9\n---\n",
    b"|\n",
    b">-\n",
    b"@",
    b"`",
    b",",
    b"null",
    b"~",
    b"true",
    b"1e999",
    b"-1",
    b"0",
    b"9999999999999999999",
    b"9" * 5000,
    b".inf",
    b".nan",
    b"0x1F",
    b"1:30:59",
    b"2026-02-31",
    b"\\ud800",
    b"\\u0000",
    b"\\UFFFFFFFF",
    b"\\x1b",
    b"\x1b[2J",
    "\u202e".encode(),
    "\u2028".encode(),
    "\x85".encode(),
    "é👩".encode(),
    b"\xed\xa0\x80",
    b"[" * 100,
    b"{a: " * 100,
    b"{{ 'a' * 9 ** 9 }}",
    b"{% for i in range(1000) %}{{ i }}{% endfor %}",
    b"../",
    b"/etc/passwd",
    b'{"a":',
    b"[[[[[[[[",
    b"1" * 400,
    b"=",
    b";",
    b"--",
    b"CON",
]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes], most: int = 6) -> bytes:
    """One of `originals` with up to `most` changes: bits, cuts, repeats, splices, odd pieces, another encoding."""
    raw = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, most))):
        what = draw(st.integers(0, 7))
        at = draw(st.integers(0, len(raw)))
        to = min(len(raw), at + draw(st.integers(0, 80)))
        if what == 0 and at < len(raw):
            raw[at] ^= 1 << draw(st.integers(0, 7))
        elif what == 1:
            del raw[at:to]
        elif what == 2:
            raw[at:at] = raw[at:to] * draw(st.integers(1, 50))
        elif what == 3:
            other = draw(st.sampled_from(originals))
            start = draw(st.integers(0, len(other)))
            raw[at:to] = other[start : start + 200]
        elif what == 4:
            del raw[at:]
        elif what == 5:
            raw[at:to] = draw(st.binary(max_size=8))
        else:
            raw[at : at if what == 6 else to] = draw(st.sampled_from(_PIECES))
    text = bytes(raw)
    how = draw(st.integers(0, 40))
    if how == 0:
        return b"\xef\xbb\xbf" + text
    if how == 1:
        return text.decode("utf-8", "replace").encode("utf-16")
    if how == 2:
        return text.replace(b"\n", b"\r\n")
    if how == 3:
        return text.replace(b"\n", b"\r")
    return text
