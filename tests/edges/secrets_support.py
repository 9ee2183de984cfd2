"""What the tests of secrets share: keys, how a server can dress one up, and the search for its traces."""

from __future__ import annotations

import base64
import html
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

LONG_KEYS = {
    "openai": "sk-proj-Vq3_9fLk2ZtX7bRw-0cYhE5mPaJ8dUs6NgTiO4xKvB1",
    "hex": "9f86d081884c7d659a2feaa0c55ad015",
    "signs": "Zx+7/Qw==uV9+kL/3mN=pR5tYb",
    "dots": "eyJhbGci.Qk9vT3I.x-7_uWz",
    "twelve": "k3y9F2a71xZq",
}
SHORT_KEYS = {"nine": "q7W4x2Zp1", "five": "zQ9vK"}
VARIABLE = "SECRET_TEST_KEY"


def dresses(key: str) -> dict[str, str]:
    """The key as a server can write it. A short one is only told as it is: cut or encoded it is too near to a word."""
    told = {"plain": key, "in a URL": f"https://gw.invalid/v1?api_key={key}&x=1", "at the limit": "y" * 380 + " " + key}
    if len(key) < 8:
        return told
    raw = key.encode()
    encoded = {
        "percent": quote(key, safe=""),
        "percent throughout": "".join(f"%{byte:02x}" for byte in raw),
        "JSON": "".join(f"\\u{ord(c):04x}" for c in key),
        "HTML": "".join(f"&#{ord(c)};" for c in key),
        "HTML named": html.escape(key).replace("+", "&plus;").replace("=", "&equals;"),
        "hex": raw.hex(),
        "base64": base64.b64encode(raw).decode(),
        "base64 of a header": base64.b64encode(b"Bearer " + raw).decode(),
        "base64 of a pair": base64.urlsafe_b64encode(b"user:" + raw + b":x").decode(),
    }
    if len(key) < 12:
        return {**told, **encoded}
    return {**told, **encoded, "cut short": key[: len(key) * 3 // 4], "its end": key[len(key) // 4 :]}


def traces(key: str) -> list[bytes]:
    """What must be nowhere, found without the redaction's help: the key, its encodings, and long parts of them."""
    raw = key.encode()
    whole = [key, raw.hex(), quote(key, safe=""), "".join(f"%{byte:02x}" for byte in raw)]
    whole += ["".join(f"\\u{ord(c):04x}" for c in key), "".join(f"&#{ord(c)};" for c in key)]
    if len(key) >= 8:
        # The middle of each of the three ways in which base64 can fall.
        whole += [base64.b64encode(b"#" * before + raw).decode()[4:-4] for before in range(3)]
    parts = [key[at : at + 10] for at in range(len(key) - 9)] if len(key) >= 12 else []
    return [text.encode() for text in {*whole, *parts}]


def search(where: str, data: bytes, key: str) -> None:
    for trace in traces(key):
        at = data.find(trace)
        assert at < 0, f"{where}: {data[max(0, at - 60) : at + 80]!r}"
        # What is in a JSON line can be in JSON once more.
        assert json.dumps(trace.decode()).encode()[1:-1] not in data, where


def search_folder(folder: Path, key: str) -> int:
    """Every file below a folder, and every value of a ledger; how many files there were."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        search(str(path), path.read_bytes(), key)
        search("a file's name", str(path).encode(), key)
        if path.suffix == ".sqlite3":
            with closing(sqlite3.connect(path)) as ledger:
                search("the ledger's values", "\n".join(ledger.iterdump()).encode(), key)
    return len(files)
