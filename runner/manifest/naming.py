"""Names of images and prompts that are safe on every file system.

Owns slugs, the names of prompts without an id, and the rules for a path below the job's image folder. Refuses to know
which values go into a name.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

from runner.manifest.problems import Wrong, shown

MAX_PART_BYTES = 200
MAX_PATH_BYTES = 1000
_ID_CHARS = 40
_VALUE_CHARS = 80

_NOT_SLUG = re.compile(r"[^A-Za-z0-9]+")
_NOT_SAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SAFE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,78}[A-Za-z0-9_-])?")
_DEVICE = r"(?:con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)"
_DEVICE_NAME = re.compile(_DEVICE + r"(?:\..*)?", re.IGNORECASE)
# One pass over the common case: no part begins with a dot or ends in a dot or space, and none is a device's name.
_FINE_PATH = re.compile(
    rf"(?:(?!{_DEVICE}(?:[./]|$))[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?(?:/(?!$)|$))+", re.I
)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\<>:"|?*]')


def is_device_name(part: str) -> bool:
    """Whether Windows would open a device instead of a file of this name."""
    return _DEVICE_NAME.fullmatch(part) is not None


def short_hash(text: str) -> str:
    """8 hex digits of SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def slug(text: str, *, most: int = _ID_CHARS) -> str:
    """Words of ASCII letters and digits joined by `-`, lower case, at most `most` characters; empty if none is left."""
    head = text[: most * 4]
    if not head.isascii():
        head = unicodedata.normalize("NFKD", head).encode("ascii", "ignore").decode()
    words = _NOT_SLUG.sub("-", head).strip("-").lower()
    if len(words) > most:
        cut = words.rfind("-", most // 2, most + 1)
        words = words[: cut if cut > 0 else most].rstrip("-")
    return words


def prompt_id(text: str, identity: str) -> str:
    """The id of a prompt that was given none: a slug of `text` and 8 hex digits of the hash of `identity`."""
    return f"{slug(text) or 'prompt'}-{short_hash(identity)}"


def safe_part(text: str) -> str:
    """`text` as (part of) one safe path part: never empty, never with a slash, never hidden, at most 80 characters.

    Where characters are lost that tell values apart, 8 hex digits of its hash are added.
    """
    if _SAFE.fullmatch(text) and not is_device_name(text):
        return text
    folded = "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
    kept = folded.encode("ascii", "ignore").decode()
    safe = _NOT_SAFE.sub("-", kept).strip("-. ")
    lossy = len(kept) < len(folded) or not safe or len(safe) > _VALUE_CHARS
    if is_device_name(safe):
        # `aux.txt` is the device too, and so is `aux.txt-1f3a`.
        lossy, safe = True, safe.replace(".", "-")
    if not lossy:
        return safe
    return f"{safe[: _VALUE_CHARS - 9].rstrip('-. ') or 'x'}-{short_hash(text)}"


def extension(output_format: str) -> str:
    """The file's ending for a format of the API."""
    return "jpg" if output_format == "jpeg" else output_format


def check_path(path: str) -> None:
    """Refuse a path that could leave its folder, or that some file system cannot hold.

    Raises:
        Wrong: with what is wrong with it.
    """
    if len(path) <= MAX_PART_BYTES and _FINE_PATH.fullmatch(path):
        return
    parts = path.split("/")
    reason = next((reason for part in parts if (reason := _part_reason(part))), None)
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        reason = "is absolute"
    elif ".." in parts:
        reason = "leaves its folder with '..'"
    elif len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        reason = f"is longer than {MAX_PATH_BYTES} bytes"
    if reason:
        raise Wrong(
            f"the image's name {shown(path)} {reason}",
            hint="a name is relative, with '/' between its folders, e.g. {{ prompt_id }}/{{ size }}-{{ sample }}",
        )


def _part_reason(part: str) -> str | None:
    hit = _FORBIDDEN.search(part)
    if hit:
        return f"has the character {hit.group()!r}"
    if not part:
        return "has an empty part"
    if part.startswith((".", " ")):
        return f"has a part that begins with {part[0]!r}"
    if part.endswith((".", " ")):
        return f"has a part that ends in {part[-1]!r}"
    if is_device_name(part):
        return f"has a part that Windows keeps for a device ({part})"
    if len(part.encode("utf-8", "surrogatepass")) > MAX_PART_BYTES:
        return f"has a part of more than {MAX_PART_BYTES} bytes"
    return None
