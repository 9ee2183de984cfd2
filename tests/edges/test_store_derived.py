"""Files that are made of assets: where they lie, that each is there as a whole or not at all, and can be replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runner.errors import StoreError
from runner.store.folder import FolderStore


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    it = FolderStore(tmp_path / "output", "job")
    it.prepare()
    return it


def below(store: FolderStore) -> dict[str, bytes]:
    """Every file of the job, by its path in it."""
    files = (path for path in sorted(store.folder.rglob("*")) if path.is_file())
    return {path.relative_to(store.folder).as_posix(): path.read_bytes() for path in files}


def test_each_kind_has_a_folder_of_its_own(store: FolderStore) -> None:
    """What is an asset and what is derived of it can be told from the path."""
    derived = store.derived
    assert store.path("a/b.png") == "job/images/a/b.png"
    assert derived.thumbnail_path("a/b.v1.png") == "job/gallery/thumbs/a/b.v1.webp"
    assert derived.rendition_path("card", "a/b.png", ".jpg") == "job/renditions/card/a/b.jpg"
    assert derived.composite_path("a/b.webp") == "job/composites/a/b.webp.png"
    assert derived.promotion_path("finals") == "job/promotions/finals.yaml"


def test_a_file_takes_the_place_of_the_one_before(store: FolderStore) -> None:
    path = store.derived.gallery_path
    assert not store.derived.has_gallery()
    store.derived.put(path, b"first")
    assert store.derived.has_gallery()
    store.derived.put(path, iter([b"sec", b"ond"]))
    assert below(store) == {"gallery/index.html": b"second"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no")])
def test_one_that_breaks_off_leaves_the_old_one_and_nothing_else(store: FolderStore, error: BaseException) -> None:
    """Half a page is no page; and on a full disk its room is given back."""
    path = store.derived.gallery_path
    store.derived.put(path, b"whole")

    def pieces() -> Iterator[bytes]:
        yield b"half"
        raise error

    with pytest.raises((StoreError, type(error))):
        store.derived.put_all([("job/renditions/card/a.webp", b"card"), (path, pieces())])
    assert below(store) == {"gallery/index.html": b"whole", "renditions/card/a.webp": b"card"}


@pytest.mark.parametrize("path", ["../out.webp", "job/../../out.webp", "/tmp/out.webp", "other/images/a.png"])
def test_nothing_is_written_outside_the_jobs_folder(store: FolderStore, path: str) -> None:
    with pytest.raises(StoreError):
        store.derived.put(path, b"x")
    assert below(store) == {}
    assert [entry.name for entry in store.output.iterdir()] == ["job"]


def test_nothing_is_written_through_a_link(store: FolderStore, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (store.folder / "renditions").symlink_to(elsewhere)
    with pytest.raises(StoreError, match="symbolic link"):
        store.derived.put("job/renditions/card/a.webp", b"x")
    with pytest.raises(StoreError, match="symbolic link"):
        store.prepare()
    assert list(elsewhere.iterdir()) == []
