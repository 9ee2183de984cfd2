"""Looking at files: what counts as the asset, what is never followed, and what is met while others change it."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from runner.errors import StoreError
from runner.store import ImageFacts, Look, decoding
from runner.store.inventory import FolderInventory
from tests.edges.ledger_support import png

FACTS = ImageFacts("png", 16, 16, False)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "job" / "images").mkdir(parents=True)
    return folder


def look(
    output: Path, path: str = "job/images/a.png", data: bytes | None = None, facts: ImageFacts | None = None
) -> Look:
    """The verdict over a file that ought to have these bytes."""
    data = png() if data is None else data
    digest = hashlib.sha256(data).hexdigest()
    return FolderInventory(output, "job").look(path, sha256=digest, size_bytes=len(data), facts=facts)


def test_the_very_bytes_are_good_and_any_other_are_changed(output: Path) -> None:
    """One byte more, one less, one other; and nothing at all is missing."""
    path = output / "job" / "images" / "a.png"
    assert look(output).verdict == "missing"
    data = png()
    for found, verdict in (
        (data, "good"),
        (data + b"\0", "changed"),
        (data[:-1], "changed"),
        (data[:-1] + b"\0", "changed"),
        (b"", "changed"),
    ):
        path.write_bytes(found)
        assert look(output).verdict == verdict


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "job",
        "job/images",
        "job/images/",
        "job/images/../../../secret",
        "job/images/./a.png",
        "job//images/a.png",
        "job/logs/a.png",
        "jobs/images/a.png",
        "../output/job/images/a.png",
        "/etc/hostname",
        "job/images/a\0.png",
    ],
)
def test_only_paths_of_the_jobs_own_folders_are_opened(
    output: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever path it is given: anything else is `outside`, and not even looked at."""

    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", refuse)
    assert look(output, path).verdict == "outside"


def test_links_are_not_followed_wherever_they_stand(output: Path) -> None:
    """The file itself, a folder on the way, `images` itself: changed, although the bytes behind are right."""
    outside = output.parent / "outside"
    outside.mkdir()
    (outside / "a.png").write_bytes(png())
    images = output / "job" / "images"
    (images / "a.png").symlink_to(outside / "a.png")
    (images / "below").symlink_to(outside, target_is_directory=True)
    assert look(output).verdict == "changed"
    assert look(output, "job/images/below/a.png").verdict == "changed"
    (images / "a.png").unlink()
    (images / "below").unlink()
    images.rmdir()
    images.symlink_to(outside, target_is_directory=True)
    assert look(output).verdict == "changed"
    assert [entry.kind for entry in FolderInventory(output, "job").walk()] == ["link"]


def test_a_job_folder_that_is_a_link_is_where_the_user_wants_it(tmp_path: Path) -> None:
    """Images on another disk: the job's folder, or the output folder, may be a link, as it may be for a run."""
    disk = tmp_path / "disk"
    (disk / "images").mkdir(parents=True)
    (disk / "images" / "a.png").write_bytes(png())
    output = tmp_path / "output"
    output.mkdir()
    (output / "job").symlink_to(disk, target_is_directory=True)
    assert look(output).verdict == "good"
    other = tmp_path / "link"
    other.symlink_to(output, target_is_directory=True)
    assert look(other).verdict == "good"


def test_what_is_not_a_file_is_missing_and_in_the_way(output: Path) -> None:
    """A folder and a pipe; the pipe is not waited for."""
    path = output / "job" / "images" / "a.png"
    path.mkdir()
    assert look(output).occupied
    path.rmdir()
    os.mkfifo(path)
    found = look(output)
    assert (found.verdict, found.occupied) == ("missing", True)
    path.unlink()
    assert not look(output).occupied


def test_what_the_system_refuses_is_unreadable(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A permission, and a disk that fails half-way: never taken for a file that is missing or changed."""
    (output / "job" / "images" / "a.png").write_bytes(png())
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", _raise(PermissionError(13, "Permission denied")))
        assert look(output) == Look("unreadable", "Permission denied")
    monkeypatch.setattr(hashlib, "file_digest", _raise(OSError(5, "Input/output error")))
    assert look(output) == Look("unreadable", "Input/output error")


def _raise(error: Exception) -> object:
    def function(*_: object, **__: object) -> object:
        raise error

    return function


def _descriptors() -> int:
    """How many are open: asking for the numbers takes one itself, each time."""
    return len(list(Path("/dev/fd").iterdir()))


def test_no_descriptor_is_left_open(output: Path) -> None:
    """Ten thousand looks, good and bad, need no more descriptors than one."""
    images = output / "job" / "images"
    (images / "a.png").write_bytes(png())
    (images / "folder.png").mkdir()
    before = _descriptors()
    for name in ("a", "folder", "none"):
        for facts in (None, FACTS, ImageFacts("png", 1, 1, False)):
            with decoding():
                look(output, f"job/images/{name}.png", facts=facts)
    list(FolderInventory(output, "job").walk())
    FolderInventory(output, "job").digest("job/images/a.png")
    FolderInventory(output, "job").flush("job/images/a.png")
    assert _descriptors() == before


# -- decoding -----------------------------------------------------------------------------------------


@pytest.fixture
def ready() -> Iterator[None]:
    with decoding():
        yield


def encoded(kind: str, size: tuple[int, int] = (16, 16)) -> bytes:
    """A picture in one format."""
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind)
    return file.getvalue()


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_every_format_of_the_store_is_decoded(output: Path, kind: str) -> None:
    """And held against format, width and height."""
    data = encoded(kind.upper(), (16, 8))
    (output / "job" / "images" / "a.png").write_bytes(data)
    assert look(output, data=data, facts=ImageFacts(kind, 16, 8, False)).verdict == "good"
    for other in (ImageFacts(kind, 8, 16, False), ImageFacts("tiff", 16, 8, False)):
        assert look(output, data=data, facts=other).verdict == "undecodable"


@pytest.mark.usefixtures("ready")
def test_a_jpeg_with_more_pictures_behind_the_first_is_a_jpeg(output: Path) -> None:
    """Some encoders write a preview behind the picture; the format on record is that of the file."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    data = file.getvalue()
    (output / "job" / "images" / "a.png").write_bytes(data)
    assert look(output, data=data, facts=ImageFacts("jpeg", 16, 16, False)).verdict == "good"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "EPS", "ICO"])
def test_no_other_parser_is_tried(output: Path, kind: str) -> None:
    """A file in a format that the store never takes does not reach its parser, whatever the record says."""
    data = encoded(kind)
    (output / "job" / "images" / "a.png").write_bytes(data)
    found = look(output, data=data, facts=ImageFacts(kind.lower(), 16, 16, False))
    assert found.verdict == "undecodable"
    assert "is none of" in found.detail


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("damage", ["cut", "spoilt", "words", "empty"])
def test_what_does_not_decode_is_told_in_words(output: Path, damage: str) -> None:
    """Whatever a decoder raises; the bytes are those on record, so that no hash tells."""
    whole = png()
    middle = len(whole) // 2
    data = {
        "cut": whole[:middle],
        "spoilt": whole[:middle] + bytes(100) + whole[middle + 100 :],
        "words": b"words",
        "empty": b"",
    }[damage]
    (output / "job" / "images" / "a.png").write_bytes(data)
    found = look(output, data=data, facts=FACTS)
    assert found.verdict == "undecodable"
    assert found.detail
    assert look(output, data=data).verdict == "good"


def test_a_picture_with_too_many_pixels_is_not_unpacked(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the warning as an error, and also where nobody has made it one."""
    data = encoded("PNG", (64, 64))
    (output / "job" / "images" / "a.png").write_bytes(data)
    facts = ImageFacts("png", 64, 64, False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 63)
    with decoding():
        assert look(output, data=data, facts=facts).verdict == "undecodable"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = look(output, data=data, facts=facts)
    assert (found.verdict, "too many" in found.detail) == ("undecodable", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    with decoding():
        assert look(output, data=data, facts=facts).verdict == "good"


def test_filters_of_warnings_are_given_back() -> None:
    """They belong to the whole process."""
    before = list(warnings.filters)
    with decoding():
        assert list(warnings.filters) != before
    assert list(warnings.filters) == before


# -- walking ------------------------------------------------------------------------------------------


def test_a_walk_meets_every_file_once_and_enters_no_link(output: Path) -> None:
    """Files, links and pipes in `images` and `superseded`, however deep; logs and temporary files are not met."""
    job = output / "job"
    for path in (
        "images/a.png",
        "images/x/y/z.png",
        "superseded/b.png",
        "logs/run.jsonl",
        ".partial/1.part",
        "best/c.png",
    ):
        (job / path).parent.mkdir(parents=True, exist_ok=True)
        (job / path).write_bytes(b"1234")
    (job / "images" / "link").symlink_to(output.parent, target_is_directory=True)
    os.mkfifo(job / "images" / "pipe")
    inventory = FolderInventory(output, "job")
    met = {entry.path: entry.kind for entry in inventory.walk()}
    assert met == {
        "job/images/a.png": "file",
        "job/images/x/y/z.png": "file",
        "job/superseded/b.png": "file",
        "job/images/link": "link",
        "job/images/pipe": "other",
    }
    assert {entry.path for entry in inventory.walk_all()} == {*met, "job/best/c.png"}
    assert {entry.bytes for entry in inventory.walk() if entry.kind == "file"} == {4}
    assert inventory.temporaries() == ["job/.partial/1.part"]
    assert inventory.digest("job/images/a.png") == hashlib.sha256(b"1234").hexdigest()
    assert inventory.digest("job/images/link") is None
    assert inventory.digest("job/images/gone") is None


def test_a_walk_bears_what_changes_meanwhile(output: Path) -> None:
    """A folder that vanishes between being met and being entered is no error, and no job's folder at all is empty."""
    images = output / "job" / "images"
    for name in ("one", "two"):
        (images / name).mkdir()
        (images / name / "a.png").write_bytes(b"x")
    walk = FolderInventory(output, "job").walk()
    first = next(walk)
    for name in ("one", "two"):
        if name not in first.path:
            (images / name / "a.png").unlink()
            (images / name).rmdir()
    assert list(walk) == []
    assert list(FolderInventory(output, "none").walk()) == list(FolderInventory(output, "none").walk_all()) == []
    assert FolderInventory(output, "none").temporaries() == []


def test_a_folder_that_cannot_be_read_is_told(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in it is not silently passed over."""
    monkeypatch.setattr(os, "scandir", _raise(PermissionError(13, "Permission denied")))
    (entry,) = FolderInventory(output, "job").walk()
    assert (entry.path, entry.kind, entry.detail) == ("job/images", "unreadable", "Permission denied")


def test_what_cannot_be_flushed_is_a_store_error(output: Path) -> None:
    """With the path and what to do."""
    with pytest.raises(StoreError, match="job/images/none"):
        FolderInventory(output, "job").flush("job/images/none")
