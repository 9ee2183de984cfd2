"""What a file is by its first bytes, so that a refusal can name it.

Owns the signatures of what people have in their folders. Refuses to open files.
"""

from __future__ import annotations

from typing import Final

HEAD_BYTES: Final = 4096
"""How much of a file is looked at."""
_CONVERT: Final = "convert it to PNG, JPEG or WebP"
_OTHERS: Final = (
    (b"GIF87a", "a GIF"),
    (b"GIF89a", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF (or a camera's raw file)"),
    (b"MM\0*", "a TIFF (or a camera's raw file)"),
    (b"II+\0", "a BigTIFF"),
    (b"MM\0+", "a BigTIFF"),
    (b"8BPS", "a Photoshop file"),
    (b"%PDF", "a PDF"),
    (b"%!PS", "a PostScript file"),
    (b"\0\0\1\0", "an icon (ICO)"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"gimp xcf", "a GIMP file"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_BRANDS: Final = {b"avif": "an AVIF", b"avis": "an AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "an HEIC"
)
_OURS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def recognised(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins with `head` and what to do about it; None for PNG, JPEG and WebP.

    An empty file is nothing at all: two empty texts.
    """
    if head.startswith(_OURS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return None
    if not head:
        return "", ""
    kind = next((name for start, name in _OTHERS if head.startswith(start)), None)
    if head[4:8] == b"ftyp":
        kind = _BRANDS.get(head[8:12], "a video, or another kind of ISO media file")
    if kind is not None:
        return kind, _CONVERT
    return _text_kind(head) or ("something else", "what counts is the content of a file, not its name")


def _text_kind(head: bytes) -> tuple[str, str] | None:
    """What a text is and what to do about it; None for what is no text."""
    try:
        text = head.decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore").lower()
    except UnicodeDecodeError:
        return None
    if "\0" in text:
        return None
    if "<html" in text or "<!doctype html" in text:
        return "a web page", "download the picture itself"
    if "<svg" in text:
        return "an SVG", _CONVERT
    if text.startswith("version https://git-lfs"):
        return "a pointer of Git LFS", "fetch the file itself: git lfs pull"
    return "text", "name a picture's file"
