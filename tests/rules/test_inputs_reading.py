"""Which pictures can be sent, how the others are refused, and that each is checked once."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from runner.inputs import Inputs, Prepare
from runner.inputs.reading import Facts, Place, check, digest, open_file, signature
from tests.rules.inputs_support import Desk, encoded, new_desk, noise, refused, smooth


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return new_desk(tmp_path)


def gif() -> bytes:
    return encoded(noise((8, 8), "P"), "GIF")


def heif(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(400)


def huge_png(width: int, height: int) -> bytes:
    """A PNG that says that it is this large, with the data of one pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("kind", "mode", "told"),
    [
        ("PNG", "RGB", "png"),
        ("PNG", "RGBA", "png"),
        ("PNG", "LA", "png"),
        ("PNG", "P", "png"),
        ("PNG", "1", "png"),
        ("PNG", "I;16", "png"),
        ("JPEG", "RGB", "jpeg"),
        ("JPEG", "L", "jpeg"),
        ("WEBP", "RGB", "webp"),
        ("WEBP", "RGBA", "webp"),
    ],
)
def test_what_can_be_sent_is_sent_as_it_is(desk: Desk, kind: str, mode: str, told: str) -> None:
    """The format is told by the content, whatever the ending; the identity is the SHA-256 of the bytes."""
    name = desk.put("picture.gif", noise((20, 10), mode), format=kind)
    ready = desk.inputs().image(name)
    assert (ready.format, ready.input.width, ready.input.height) == (told, 20, 10)
    assert ready.path == desk.base / name
    assert ready.bytes == (desk.base / name).stat().st_size
    assert ready.input.identity == ready.source.identity == desk.sha256(name)


def test_a_jpeg_with_more_pictures_behind_it_is_a_jpeg(desk: Desk) -> None:
    """What many phones and cameras write (MPO) goes as it is."""
    name = desk.put("phone.jpg", noise((20, 10)), format="MPO", save_all=True, append_images=[noise((20, 10), seed=2)])
    assert desk.inputs().image(name).format == "jpeg"
    assert desk.inputs().image(name).input.identity == desk.sha256(name)


def test_grey_of_16_bits_with_one_transparent_grey(desk: Desk) -> None:
    """Pillow cannot make RGBA of it, and nobody asks."""
    name = desk.put("deep.png", noise((8, 8), "I;16"), transparency=0)
    assert desk.inputs().image(name).input.identity == desk.sha256(name)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (gif(), "a GIF"),
        (encoded(noise((8, 8)), "BMP"), "a BMP"),
        (encoded(noise((8, 8)), "TIFF"), "a TIFF"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
        (b"<svg/>" + b" " * 10_000, "an SVG"),
        (heif(b"heic"), "an HEIC"),
        (heif(b"mif1"), "an HEIC"),
        (heif(b"avif"), "an AVIF"),
        (heif(b"isom"), "a video"),
        (encoded(noise((8, 8)), "JPEG2000"), "a JPEG 2000"),
        (b"\xff\x0a" + bytes(100), "a JPEG XL"),
        (encoded(noise((16, 16)), "ICO"), "an icon"),
        (b"8BPS" + bytes(100), "a Photoshop file"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
        (b"A cat on a mat\n", "text"),
        ("\u00e4".encode() * 5000, "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "something else"),
        (bytes(range(128, 256)), "something else"),
        (b"\0" * 50, "something else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_kind_of_file_is_called_by_its_name(desk: Desk, data: bytes, word: str) -> None:
    """Whatever its ending says."""
    desk.put("a.png", data)
    with refused("a.png is ", word, "not a PNG, JPEG or WebP"):
        desk.inputs().image("a.png")


def test_a_file_that_is_not_there(desk: Desk) -> None:
    """The nearest name is told, and what paths are relative to."""
    desk.put("mugs/mug.png", noise((4, 4)))
    with refused("there is no file mugs/mgu.png", hint="did you mean mug.png? paths are relative to the manifest"):
        desk.inputs().image("mugs/mgu.png")
    with refused("there is no file nowhere/at/all.png", hint="relative to the manifest"):
        desk.inputs().image("nowhere/at/all.png")
    with refused("there is no file mugs/mug.png/more", hint="relative to the manifest"):
        desk.inputs().image("mugs/mug.png/more")


def test_what_is_no_file(desk: Desk) -> None:
    """A folder, a pipe (which could be waited for without end), a device, and a name that no file can have."""
    (desk.base / "folder").mkdir()
    os.mkfifo(desk.base / "pipe.png")
    (desk.base / "null.png").symlink_to("/dev/null")
    inputs = desk.inputs()
    with refused("folder is a folder", hint="folder/*.png"):
        inputs.image("folder")
    for name in ("pipe.png", "null.png"):
        with refused(f"{name} is not an ordinary file"):
            inputs.image(name)
    with refused("pipe.png is not an ordinary file"):
        open_file(Place(desk.base / "pipe.png", "pipe.png"))  # became a pipe since it was looked at
    with refused("cannot be read"):
        inputs.image("a\0b.png")
    with refused("cannot be read"):
        inputs.image("a" * 300)
    with refused("is empty"):
        inputs.image(desk.put("empty.png", b""))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "WEBP", "lossless"])
def test_a_cut_file_is_refused_wherever_it_is_cut(desk: Desk, kind: str) -> None:
    """A picture is decoded to its end, once."""
    options = {"progressive": {"progressive": True}, "lossless": {"lossless": True}}.get(kind, {})
    form = {"progressive": "JPEG", "lossless": "WEBP"}.get(kind, kind)
    data = encoded(noise((40, 30)), form, **options)
    for tenth in range(1, 10):
        desk.put("cut", data[: len(data) * tenth // 10])
        with refused("cut is broken: ", hint="again"):
            desk.inputs().image("cut")
    desk.put("cut", data[:-20])
    with refused("cut is broken: "):
        desk.inputs().image("cut")
    desk.put("cut", data)
    assert desk.inputs().image("cut").bytes == len(data)


def test_a_png_with_a_wrong_checksum_is_broken(desk: Desk) -> None:
    """Wherever the bit fell over: in the pixels or in a chunk that Pillow has no use for."""
    data = bytearray(encoded(noise((40, 30)), "PNG", dpi=(72, 72)))
    for at in (data.index(b"IDAT") + 100, data.index(b"IEND") - 6, data.index(b"pHYs") + 6, 20):
        wrong = bytearray(data)
        wrong[at] ^= 4
        desk.put("flipped.png", bytes(wrong))
        with refused("flipped.png is broken: "):
            desk.inputs().image("flipped.png")


def test_an_animation_is_refused(desk: Desk) -> None:
    """An API that takes one picture would take the first, or none."""
    frames = [noise((8, 8), seed=seed) for seed in (2, 3)]
    for name in ("moving.png", "moving.webp"):
        desk.put(name, noise((8, 8)), save_all=True, append_images=frames)
        with refused(f"{name} is animated"):
            desk.inputs().image(name)


def test_absurd_sizes_are_refused_before_anything_is_decoded(desk: Desk) -> None:
    """The data behind the header is that of one pixel: a decoder would have called the file broken."""
    inputs = desk.inputs()
    for width, height in ((10_000, 10_001), (12_000, 12_000), (60_000, 60_000)):
        desk.put("bomb.png", huge_png(width, height))
        with refused("bomb.png has too many pixels", "100 million"):
            inputs.image("bomb.png")
    desk.put("bomb.png", huge_png(10_000, 10_000))
    with refused("bomb.png is broken"):
        inputs.image("bomb.png")


def test_large_pictures_that_are_bearable_go(desk: Desk) -> None:
    """Pillow warns from 89 million pixels on, and a warning is none of the user's business."""
    name = desk.put("large.png", Image.new("1", (9_500, 10_000)))
    assert desk.inputs().image(name).input.width == 9_500


def test_an_exif_block_of_nonsense_is_no_fault_of_the_picture(desk: Desk) -> None:
    """Pillow warns about it; the pixels are whole."""
    for number, block in enumerate((b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0II*\0")):
        name = desk.put(f"{number}.jpg", noise((8, 8)), exif=block)
        assert desk.inputs().image(name).input.identity == desk.sha256(name)


def test_what_is_sent_is_under_50_mb(desk: Desk) -> None:
    """With `prepare` the result counts."""
    name = desk.put("big.jpg", encoded(smooth((600, 400)), "JPEG"))
    os.truncate(desk.base / name, 49_999_999)
    assert desk.inputs().image(name).bytes == 49_999_999
    os.truncate(desk.base / name, 50_000_000)
    with refused("big.jpg has 50.0 MB", "under 50 MB", hint="prepare"):
        desk.inputs().image(name)
    assert desk.inputs().image(name, Prepare(max_side=300)).bytes < 100_000


def test_a_file_of_gigabytes_is_not_even_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that begins like something else: a film that was named by mistake costs nothing."""
    count = Counted(monkeypatch)
    desk.put("film.png", heif(b"isom"))
    os.truncate(desk.base / "film.png", 10**9)
    with refused("film.png is a video"):
        desk.inputs().image("film.png")
    desk.put("huge.png", encoded(noise((4, 4)), "PNG"))
    os.truncate(desk.base / "huge.png", 5 * 10**9)
    with refused("huge.png has 5.0 GB"):
        desk.inputs().image("huge.png")
    assert count() == (0, 0)


class Counted:
    """How often the files of a desk were read and decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hashed: list[str] = []
        self.decoded: list[str] = []

        def counted_digest(file: object, place: Place) -> str:
            self.hashed.append(place.name)
            return digest(file, place)  # type: ignore[arg-type] # handed through

        def counted_check(file: object, place: Place, sha256: str) -> Facts:
            self.decoded.append(place.name)
            return check(file, place, sha256)  # type: ignore[arg-type] # handed through

        monkeypatch.setattr("runner.inputs.inputs.digest", counted_digest)
        monkeypatch.setattr("runner.inputs.inputs.check", counted_check)

    def __call__(self) -> tuple[int, int]:
        """How many files were read and decoded since the last time."""
        found = len(self.hashed), len(self.decoded)
        self.hashed.clear()
        self.decoded.clear()
        return found


def test_a_file_is_checked_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By this process and by later ones; touched, it is read again and not decoded; changed, it is decoded."""
    count = Counted(monkeypatch)
    name = desk.put("a.png", noise((8, 8)))
    inputs = desk.inputs()
    first = inputs.image(name)
    assert count() == (1, 1)
    assert inputs.image(name) == first
    assert desk.inputs().image(name) == first
    assert count() == (0, 0)
    os.utime(desk.base / name, (1, 1))
    assert inputs.image(name) == first
    assert count() == (1, 0)
    assert desk.inputs().fetch(first.source) == first
    assert count() == (0, 0)
    desk.put("a.png", noise((8, 8), seed=2))
    assert inputs.image(name) != first
    assert count() == (1, 1)


def test_a_file_that_was_just_written_is_read_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be written again within one tick of the file system's clock, and look untouched."""
    count = Counted(monkeypatch)
    name = desk.put("a.png", encoded(noise((8, 8)), "PNG"))
    still = signature(Place(desk.base / name, name))
    monkeypatch.setattr("runner.inputs.inputs.signature", lambda _place: still)
    monkeypatch.setattr("runner.inputs.inputs.signature_of", lambda _found: still)
    inputs = desk.inputs(ahead_ns=0)
    first = inputs.image(name)
    assert inputs.image(name) == first
    assert count() == (2, 1)
    desk.put("a.png", encoded(noise((8, 8), seed=2), "PNG"))
    assert inputs.image(name).input.identity == desk.sha256(name) != first.input.identity


def test_equal_size_and_time_hide_no_change(desk: Desk) -> None:
    """Tools that set a file's time back cannot set back when its inode changed."""
    name = desk.put("a.bmp", encoded(noise((8, 8)), "PNG", compress_level=0))
    inputs = desk.inputs()
    first = inputs.image(name)
    before = (desk.base / name).stat()
    desk.put(name, encoded(noise((8, 8), seed=2), "PNG", compress_level=0))
    os.utime(desk.base / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (desk.base / name).stat().st_size == before.st_size
    assert inputs.image(name).input.identity == desk.sha256(name) != first.input.identity


def test_a_file_that_is_written_while_it_is_read(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was hashed and what was decoded could be two pictures."""
    desk.put("a.png", noise((8, 8)))

    def meanwhile(file: object, place: Place, sha256: str) -> Facts:
        found = check(file, place, sha256)  # type: ignore[arg-type] # handed through
        with (desk.base / "a.png").open("ab") as more:
            more.write(b"more")
        return found

    monkeypatch.setattr("runner.inputs.inputs.check", meanwhile)
    with refused("a.png is being written to"):
        desk.inputs().image("a.png")


def test_a_refusal_is_not_remembered(desk: Desk) -> None:
    """What was mended is taken, with the very size and time that it had."""
    whole = encoded(noise((8, 8)), "PNG")
    name = desk.put("a.png", whole[:-30] + bytes(30))
    inputs = desk.inputs()
    for _ in range(2):
        with refused("a.png is broken"):
            inputs.image(name)
    desk.put("a.png", whole)
    assert inputs.image(name).bytes == len(whole)


def test_names_and_globs(desk: Desk) -> None:
    """A path is itself, even when it has brackets; a glob finds files, sorted, in folders below with `**`."""
    for name in ("b.png", "a.png", "sub/c.png", "sub/deep/d.png", "odd[1].png", ".hidden.png"):
        desk.put(name, noise((2, 2)))
    (desk.base / "folder.png").mkdir()
    inputs = desk.inputs()
    assert inputs.expand("b.png") == ["b.png"]
    assert inputs.expand("nowhere.png") == ["nowhere.png"]
    assert inputs.expand("odd[1].png") == ["odd[1].png"]
    assert inputs.expand("[ab].png") == ["a.png", "b.png"]
    assert inputs.expand("?.png") == ["a.png", "b.png"]
    assert inputs.expand("./*.png") == ["a.png", "b.png", "odd[1].png"]
    assert inputs.expand("**/*.png") == ["a.png", "b.png", "odd[1].png", "sub/c.png", "sub/deep/d.png"]
    assert inputs.expand(f"{desk.base}/sub/*.png") == [f"{desk.base}/sub/c.png"]
    for name in ("*.jpg", "folder.pn?", "nowhere/*.png"):
        with refused(f"no file matches {name}", hint="relative to the manifest"):
            inputs.expand(name)


@pytest.mark.parametrize("name", ["/**", "/**/*.png", "../**/*.png", "sub/../../**"])
def test_a_glob_does_not_walk_through_the_whole_disk(desk: Desk, name: str) -> None:
    """A manifest from a stranger can be read without fear."""
    with refused("leads out of the manifest's folder", hint="below it"):
        desk.inputs().expand(name)


def test_a_glob_that_finds_far_too_much_is_refused(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file more than the most is too many; what it finds is not gathered first."""
    monkeypatch.setattr("runner.inputs.inputs.MAX_MATCHES", 3)
    for number in range(3):
        desk.put(f"{number}.png", b"x")
    assert len(desk.inputs().expand("*.png")) == 3
    desk.put("3.png", b"x")
    with refused("more than 3 files match", hint="narrower"):
        desk.inputs().expand("*.png")


def test_a_relative_base_is_one_folder_whatever_happens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process may go elsewhere between the plan and the upload."""
    name = desk.put("a.png", noise((2, 2)))
    monkeypatch.chdir(desk.base.parent)
    inputs = Inputs(Path("base"), desk.cache)
    monkeypatch.chdir("/")
    assert inputs.image(name).path == desk.base / name


def test_importing_it_is_cheap() -> None:
    """Pillow is imported when a picture is looked at: a manifest without pictures pays nothing."""
    code = "import runner.inputs, sys; assert not {'PIL', 'pydantic', 'openai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
