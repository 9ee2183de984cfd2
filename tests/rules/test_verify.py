"""What the verifier of images must hold: a whole image passes however it arrives, anything else never does."""

from __future__ import annotations

import io
import itertools
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runner.store.verify import BadImage, ImageFacts, ImageVerifier

SIZE = (23, 17)


def picture(mode: str, size: tuple[int, int] = SIZE, seed: int = 1) -> Image.Image:
    """Noise on a ramp: compressible enough to be small, rich enough to have every byte value."""
    source = random.Random(seed)
    noise = bytes(source.randrange(256) if i % 3 else i % 256 for i in range(size[0] * size[1] * 4))
    return Image.frombytes("RGBA", size, noise).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_header(width: int = 4, height: int = 4, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def with_riff_chunk(image: bytes, kind: bytes, data: bytes) -> bytes:
    body = image[8:] + kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    return exif.tobytes()


def _gallery() -> dict[str, bytes]:
    frames = [picture("RGB", seed=seed) for seed in (2, 3)]
    profile = bytes(range(256)) * 3
    images = {f"png {mode}": encoded(picture(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
    images |= {f"jpeg {mode}": encoded(picture(mode), "JPEG") for mode in ("L", "RGB", "CMYK")}
    images |= {f"webp {mode}": encoded(picture(mode), "WEBP") for mode in ("RGB", "RGBA")}
    images |= {f"webp lossless {mode}": encoded(picture(mode), "WEBP", lossless=True) for mode in ("RGB", "RGBA")}
    images |= {f"gif {mode}": encoded(picture(mode), "GIF") for mode in ("1", "L", "P", "RGB")}
    images |= {
        "png interlaced": png(
            (b"IHDR", png_header(1, 1, interlace=1)), (b"IDAT", zlib.compress(b"\0\x7f")), (b"IEND", b"")
        ),
        "png icc exif": encoded(picture("RGB"), "PNG", icc_profile=profile, exif=_exif()),
        "png animated": encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "jpeg progressive": encoded(picture("RGB"), "JPEG", progressive=True, quality=95),
        "jpeg restarts": encoded(picture("RGB", (64, 48)), "JPEG", restart_marker_blocks=1),
        "jpeg progressive restarts": encoded(picture("RGB"), "JPEG", progressive=True, restart_marker_rows=1),
        "jpeg icc exif comment": encoded(
            picture("RGB"), "JPEG", icc_profile=profile, exif=_exif(), comment=b"\xff\xd9"
        ),
        "webp icc exif": encoded(picture("RGB"), "WEBP", icc_profile=profile, exif=_exif()),
        "webp animated": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "gif animated": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=0),
        "gif comment": encoded(picture("L"), "GIF", comment=b";" * 300),
        "png large": encoded(picture("RGB", (211, 97)), "PNG"),
        "jpeg large": encoded(picture("RGB", (211, 97)), "JPEG", quality=95),
        "webp large": encoded(picture("RGB", (211, 97)), "WEBP", quality=95),
        "gif large": encoded(picture("P", (211, 97)), "GIF"),
    }
    return images


GALLERY = _gallery()
SMALL = {name: data for name, data in GALLERY.items() if len(data) < 8_000}
PNGS = {name: data for name, data in SMALL.items() if name.startswith("png") and len(data) < 4_000}


def verify(*chunks: bytes | memoryview, max_pixels: int = 100_000_000) -> ImageFacts:
    verifier = ImageVerifier(max_pixels=max_pixels)
    for chunk in chunks:
        verifier.feed(chunk)
    return verifier.finish()


def code_of(*chunks: bytes, max_pixels: int = 100_000_000) -> str:
    with pytest.raises(BadImage) as caught:
        verify(*chunks, max_pixels=max_pixels)
    assert caught.value.message
    return caught.value.code


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(bounds)]


@pytest.mark.parametrize("name", GALLERY)
def test_a_whole_image_has_the_facts_that_pillow_reads(name: str) -> None:
    """Every format, mode and variant: format and size are Pillow's, in one chunk and byte by byte."""
    data = GALLERY[name]
    with Image.open(io.BytesIO(data)) as image:
        expected = ImageFacts(str(image.format).lower(), *image.size, False)
    assert verify(data) == expected
    assert verify(memoryview(data)) == expected
    assert verify(*(data[i : i + 1] for i in range(len(data)))) == expected


@given(name=st.sampled_from(sorted(GALLERY)), places=st.lists(st.integers(0, 100_000), max_size=12))
def test_the_chunking_changes_nothing(name: str, places: list[int]) -> None:
    """Any chunking, empty chunks among them, gives the facts of the whole."""
    assert verify(*cut_at(GALLERY[name], places)) == verify(GALLERY[name])


@pytest.mark.parametrize("name", SMALL)
def test_a_chunk_may_end_anywhere(name: str) -> None:
    """Two chunks, divided at every byte: headers, lengths and blocks may lie across."""
    data = memoryview(SMALL[name])
    facts = verify(data)
    for place in range(len(data)):
        assert verify(data[:place], data[place:]) == facts, place


@pytest.mark.parametrize("name", SMALL)
def test_a_cut_image_is_incomplete(name: str) -> None:
    """Cut at any byte: law 2 rests on this."""
    data = SMALL[name]
    verifier = ImageVerifier()
    for length in range(len(data)):
        with pytest.raises(BadImage) as caught:
            verifier.finish()
        assert caught.value.code == "incomplete_image", length
        verifier.feed(data[length : length + 1])
    assert verifier.finish()
    for length in range(0, len(data), 61):
        assert code_of(data[:length]) == "incomplete_image"


@pytest.mark.parametrize("name", GALLERY)
def test_nothing_may_follow_an_image(name: str) -> None:
    """One byte more is damage, in the same chunk or the next, and the verdict stays."""
    data = GALLERY[name]
    for tail in (b"\0", b"\n", data):
        assert code_of(data + tail) == "damaged_image"
        assert code_of(data, tail) == "damaged_image"
    verifier = ImageVerifier()
    with pytest.raises(BadImage):
        verifier.feed(data + b"\0")
    with pytest.raises(BadImage):
        verifier.feed(b"")
    with pytest.raises(BadImage):
        verifier.finish()


@pytest.mark.parametrize("name", PNGS)
def test_one_changed_byte_of_a_png_is_found(name: str) -> None:
    """Every byte of a PNG is under a checksum, a length or the signature: each is changed in turn."""
    data = PNGS[name]
    for place in range(len(data)):
        for change in (0x01, 0x20, 0x80, 0xFF):
            damaged = data[:place] + bytes((data[place] ^ change,)) + data[place + 1 :]
            with pytest.raises(BadImage):
                verify(damaged)


@given(
    name=st.sampled_from(sorted(SMALL)),
    start=st.integers(0, 5_000),
    stuff=st.binary(max_size=40),
    removed=st.integers(0, 40),
    places=st.lists(st.integers(0, 5_000), max_size=3),
)
def test_damage_raises_nothing_but_bad_image(
    name: str, start: int, stuff: bytes, removed: int, places: list[int]
) -> None:
    """Bytes replaced, inserted or lost anywhere: facts or BadImage, and the same in any chunking."""
    data = SMALL[name]
    start %= len(data)
    damaged = data[:start] + stuff + data[start + removed :]

    def outcome(chunks: list[bytes]) -> ImageFacts | str:
        try:
            return verify(*chunks)
        except BadImage as error:
            return error.code

    assert outcome([damaged]) == outcome(cut_at(damaged, places))


@given(
    head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8X"]),
    data=st.binary(max_size=300),
)
def test_random_bytes_are_never_an_image(head: bytes, data: bytes) -> None:
    """Neither noise nor noise behind a signature passes, and nothing but BadImage is raised."""
    with pytest.raises(BadImage):
        verify(head + data)


@pytest.mark.parametrize(
    "data",
    [b"<html><body>502</body></html>", b'{"error":', b"hi", b"%PDF-1.7", b"<svg/>", b"GIF90a", b"RIFF\x04\0\0\0WAVE"],
)
def test_other_content_is_not_an_image(data: bytes) -> None:
    """A page or a text is told from a damaged image, so that the user looks at the right place."""
    assert code_of(data) == "not_an_image"


def test_nothing_at_all_is_incomplete() -> None:
    """No bytes, or a beginning of a signature, may be a cut image."""
    assert code_of() == "incomplete_image"
    assert code_of(b"\x89PN") == "incomplete_image"


def test_content_credentials_are_seen() -> None:
    """C2PA: a PNG caBX chunk, a JPEG APP11 segment, a RIFF C2PA chunk."""
    image = SMALL["png RGB"]
    assert verify(image[:33] + png_chunk(b"caBX", b"jumb" * 50) + image[33:]).has_c2pa
    image = SMALL["jpeg RGB"]
    assert verify(image[:2] + b"\xff\xeb\0\x0aJP\0\1\0\0\0\1" + image[2:]).has_c2pa
    image = SMALL["webp RGB"]
    assert verify(with_riff_chunk(image, b"C2PA", b"jumb odd!")).has_c2pa
    assert not verify(with_riff_chunk(image, b"XMP ", b"C2PA")).has_c2pa


@pytest.mark.parametrize("name", SMALL)
def test_the_pixel_limit_holds_at_its_edge_and_from_the_header(name: str) -> None:
    """Exactly the limit passes; one pixel more is refused as soon as the header is there."""
    data = SMALL[name]
    facts = verify(data)
    pixels = facts.width * facts.height
    assert verify(data, max_pixels=pixels) == facts
    assert code_of(data, max_pixels=pixels - 1) == "image_too_large"
    verifier = ImageVerifier(max_pixels=pixels - 1)
    with pytest.raises(BadImage):
        for place in range(len(data) - 1):
            verifier.feed(data[place : place + 1])


IDAT = (b"IDAT", zlib.compress(b"\0" * 20))
IEND = (b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        png(IDAT, IEND),
        png((b"IHDR", png_header()[:12]), IDAT, IEND),
        png((b"IHDR", png_header(width=0)), IDAT, IEND),
        png((b"IHDR", png_header(height=0)), IDAT, IEND),
        png((b"IHDR", png_header(depth=3)), IDAT, IEND),
        png((b"IHDR", png_header(colour=5)), IDAT, IEND),
        png((b"IHDR", png_header(interlace=2)), IDAT, IEND),
        png((b"IHDR", png_header()), IEND),
        png((b"IHDR", png_header()), (b"IDAT", b""), IEND),
        png((b"IHDR", png_header()), (b"IHDR", png_header()), IDAT, IEND),
        png((b"IHDR", png_header()), IDAT, (b"tEXt", b"a\0b"), IDAT, IEND),
        png((b"IHDR", png_header()), IDAT, (b"IEND", b"\0")),
        png((b"IHDR", png_header(colour=3)), IDAT, IEND),
        png((b"IHDR", png_header()), (b"ID T", b""), IDAT, IEND),
        png((b"IHDR", png_header())) + b"\x80\0\0\0IDAT",
    ],
)
def test_a_png_in_disorder_is_damaged(data: bytes) -> None:
    """IHDR first and sane, a palette where one is needed, data in one run, an empty IEND last."""
    assert code_of(data) == "damaged_image"


def test_a_checksum_is_named_with_its_chunk() -> None:
    """The message says which chunk does not add up."""
    data = png((b"IHDR", png_header()), IDAT)
    with pytest.raises(BadImage, match="IDAT"):
        verify(data[:-1] + bytes((data[-1] ^ 1,)) + png_chunk(*IEND))


SOF = b"\xff\xc0\0\x0b\x08\0\x04\0\x04\x01\x01\x11\0"
SOS = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0"


def test_a_jpeg_may_stuff_pad_and_restart() -> None:
    """FF00 is data, FFFF is padding, a restart does not end a scan, a second scan may follow."""
    data = b"\xff\xd8\xff" + SOF + SOS + b"a\xff\x00\xff\xd3b\xff\xff\xff\x00c\xff" + SOS + b"d\xff\xff\xd9"
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))]):
        assert verify(*chunks) == ImageFacts("jpeg", 4, 4, False)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xd9",
        SOF + b"\xff\xd9",
        SOS + b"data\xff\xd9",
        SOF + SOF + SOS + b"data\xff\xd9",
        SOF + SOS + b"data\xff\xd8\xff\xd9",
        SOF + b"\xff\xd0" + SOS + b"data\xff\xd9",
        SOF + b"\xff\xe1\0\x01" + SOS + b"data\xff\xd9",
        SOF + b"\0" + SOS + b"data\xff\xd9",
        SOF.replace(b"\0\x0b", b"\0\x0c") + b"\0" + SOS + b"data\xff\xd9",
        b"\xff\xc0\0\x05\x08\0\x04" + SOS + b"data\xff\xd9",
        SOF.replace(b"\x08\0\x04\0\x04", b"\x08\0\0\0\x04") + SOS + b"data\xff\xd9",
    ],
)
def test_a_jpeg_in_disorder_is_damaged(body: bytes) -> None:
    """One frame header of the right length, before any scan, and a scan before the end."""
    assert code_of(b"\xff\xd8" + body) == "damaged_image"


VP8 = b"\x10\0\0\x9d\x01\x2a\x04\0\x04\0data"
VP8L = b"\x2f" + (3 | 3 << 14).to_bytes(4, "little") + b"data!"
VP8X = b"\0\0\0\0\x03\0\0\x03\0\0"


def test_a_webp_may_have_any_head() -> None:
    """Simple lossy, simple lossless and extended files; scaling bits are not part of the size."""
    facts = ImageFacts("webp", 4, 4, False)
    assert verify(riff((b"VP8 ", VP8))) == facts
    assert verify(riff((b"VP8 ", VP8[:7] + b"\x40\x04\x80data"))) == facts
    assert verify(riff((b"VP8L", VP8L))) == facts
    assert verify(riff((b"VP8X", VP8X), (b"ALPH", b"odd"), (b"VP8 ", VP8))) == facts
    assert verify(riff((b"VP8X", b"\x02" + VP8X[1:]), (b"ANIM", b"\0" * 6), (b"ANMF", b"\0" * 30))) == facts


@pytest.mark.parametrize(
    "data",
    [
        b"RIFF\0\0\0\0WEBP",
        riff(),
        riff((b"ALPH", b"data"), (b"VP8 ", VP8)),
        riff((b"VP8X", VP8X)),
        riff((b"VP8X", VP8X), (b"ANMF", b"\0" * 30)),
        riff((b"VP8X", VP8X), (b"VP8 ", VP8[:6] + b"\x05\0\x04\0")),
        riff((b"VP8 ", b"\x11" + VP8[1:])),
        riff((b"VP8 ", VP8[:3] + b"\x9d\x01\x2b" + VP8[6:])),
        riff((b"VP8 ", VP8[:8])),
        riff((b"VP8L", b"\x2e" + VP8L[1:])),
        riff((b"VP8L", VP8L[:4] + b"\x20")),
        b"RIFF\x1c\0\0\0WEBPVP8 \x40\0\0\0" + VP8 + b"\0\0",
        b"RIFF\x1e\0\0\0WEBPVP8 \x0e\0\0\0" + VP8 + b"XMP ",
    ],
)
def test_a_webp_in_disorder_is_damaged(data: bytes) -> None:
    """A known head, chunks inside the RIFF size, image data of the canvas's size."""
    assert code_of(data) == "damaged_image"


def test_a_gif_in_disorder_is_damaged() -> None:
    """A GIF without a frame, without a size, or with something else where a block begins."""
    head = b"GIF89a\x04\0\x04\0\0\0\0"
    assert code_of(head + b";") == "damaged_image"
    assert code_of(head + b"\x2c" + b"\0" * 8 + b"\0\x08\x01\0\0\x07") == "damaged_image"
    assert code_of(b"GIF89a\0\0\x04\0\0\0\0" + b"\x2c" + b"\0" * 8 + b"\0\x08\x01\0\0;") == "damaged_image"
    assert verify(head + b"\x2c" + b"\0" * 8 + b"\0\x08\x01\0\0;") == ImageFacts("gif", 4, 4, False)


def test_a_chunk_is_not_kept() -> None:
    """The buffer that was fed can be released and used again: the verifier holds nothing of it."""
    data = GALLERY["png large"]
    buffer = bytearray(1_000)
    verifier = ImageVerifier()
    for start in range(0, len(data), len(buffer)):
        part = data[start : start + len(buffer)]
        buffer[: len(part)] = part
        with memoryview(buffer) as view, view[: len(part)] as chunk:
            verifier.feed(chunk)
    buffer.clear()  # raises BufferError while anything still looks at it
    assert verifier.finish().format == "png"
