"""Every mistake about images and masks is told before anything is sent, with the line that names the picture."""

from __future__ import annotations

import gc
import itertools
import tracemalloc
from pathlib import Path

import pytest

from runner import manifest
from runner.errors import InputError
from tests.rules.manifest_data import draw, draw_all, job, loads, marked, refused

TOP = "name: a\nprompts: [A cat]\n"
MUG = "images: assets/mug.png"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with pictures, and with files that are none."""
    draw_all(tmp_path)
    (tmp_path / "assets/notes.png").write_text("no picture")
    (tmp_path / "assets/broken.png").write_bytes((tmp_path / "assets/mug.png").read_bytes()[:60])
    for number in range(17):
        draw(tmp_path / f"many/{number}.png", (4, 4), shade=number)
    return tmp_path


# (manifest with ^ before the mistake, part of the message, part of the hint)
MISTAKES = {
    # what is written
    "unknown key": (TOP + "edit: {^imges: x}\n", "unknown key 'imges'", "did you mean images?"),
    "unknown key of prepare": (TOP + f"edit: {{{MUG}, prepare: {{^maxside: 9}}}}\n", "'maxside'", "max_side?"),
    "unknown key of a mask": (TOP + f"edit: {{{MUG}, mask: {{^bx: 9}}}}\n", "unknown key 'bx'", "did you mean box?"),
    "unknown key of an axis": (TOP + "matrix: {mask: [{^fil: a.png}]}\n", "unknown key 'fil'", "did you mean file?"),
    "an edit's key at the top": (TOP + "^composite: true\n", "'composite'", "under `edit`"),
    "edit no mapping": (TOP + "edit: ^assets/mug.png\n", "must be a mapping", "key: value"),
    "empty path": (TOP + "edit: {images: [^'']}\n", "the path is empty", "relative to the manifest"),
    "mapping as image": (TOP + "edit: {images: [^{file: x}]}\n", "not a mapping", "quoted"),
    "mask without a shape": (TOP + f"edit: {{{MUG}, mask: ^{{feather: 1}}}}\n", "without a shape", "polygon"),
    "mask of two shapes": (
        TOP + f"edit: {{{MUG}, mask: ^{{file: a.png, box: [0, 0, 1, 1]}}}}\n", "not file and box", "file: mask.png",
    ),
    "mode of a box": (
        TOP + f"edit: {{{MUG}, mask: {{box: [0, 0, 1, 1], ^mask_mode: alpha}}}}\n", "`mask_mode` is for", "remove it",
    ),
    "box too short": (TOP + f"edit: {{{MUG}, mask: {{box: ^[0, 0, 1]}}}}\n", "a list of 3", "[x, y, width, height]"),
    "box without width": (TOP + f"edit: {{{MUG}, mask: {{box: [0, 0, ^0, 1]}}}}\n", "width of 0", "pixels"),
    "box of words": (TOP + f"edit: {{{MUG}, mask: {{box: [0, 0, ^wide, 1]}}}}\n", "not 'wide'", "digits"),
    "polygon of two": (TOP + f"edit: {{{MUG}, mask: {{polygon: ^[[0, 0], [1, 1]]}}}}\n", "three points", "[[x, y]"),
    "point of three": (
        TOP + f"edit: {{{MUG}, mask: {{polygon: [[0, 0], ^[1, 1, 1], [2, 2]]}}}}\n", "two numbers", "[[x, y]",
    ),
    "mask_mode": (TOP + f"edit: {{{MUG}, mask_mode: ^white}}\n", "'white' is no `mask_mode`", "white_is_edit"),
    "feather": (TOP + f"edit: {{{MUG}, feather: ^257}}\n", "feather of 257", "256"),
    "resize": (TOP + f"edit: {{{MUG}, resize: ^on}}\n", "true or false is wanted, not 'on'", "true or false"),
    "format": (TOP + f"edit: {{{MUG}, prepare: {{format: ^jpg}}}}\n", "'jpg' is no `format`", "did you mean jpeg?"),
    "max_side": (TOP + f"edit: {{{MUG}, prepare: {{max_side: ^0}}}}\n", "at least 16", "16 or more"),
    "quality of png": (
        TOP + f"edit: {{{MUG}, prepare: {{format: png, ^quality: 80}}}}\n", "`quality` is for", "format: webp",
    ),
    "variable called image": (TOP + "vars: {^image: x}\n", "'image' is taken", "matrix: {image: [...]}"),
    "variable called mask": ("name: a\nprompts: [{text: b, vars: {^mask: x}}]\n", "'mask' is taken", "`edit`"),
    "the same image twice": (TOP + "matrix: {image: [a.png, ^a.png]}\n", "a.png stands twice", "samples"),
    "a list in exclude": (TOP + "matrix: {image: [a.png], exclude: [{mask: ^[a.png]}]}\n", "one value", "one entry"),
    # what is found
    "missing image": (TOP + "edit: {images: [assets/mug.png, ^assets/mgu.png]}\n", "no file assets/mgu", "mug.png?"),
    "missing image of a prompt": (
        "name: a\nprompts: [{text: b, edit: {images: ^assets/mgu.png}}]\n", "no file assets/mgu.png", "relative to",
    ),
    "missing reference": (TOP + f"edit: {{{MUG}, references: ^x.png}}\n", "no file x.png", "relative to the manifest"),
    "missing image of an axis": (TOP + "matrix: {image: [assets/mug.png, ^x.png]}\n", "no file x.png", "relative to"),
    "missing image of a set": (TOP + "matrix: {image: [^[assets/mug.png, x.png]]}\n", "no file x.png", "relative to"),
    "missing image of an include": (
        TOP + "matrix: {image: [assets/mug.png], include: [{image: ^x.png}]}\n", "no file x.png", "relative to",
    ),
    "missing image after a glob": (
        TOP + "matrix: {image: ['assets/[cm]*', ^x.png, assets/vase.webp]}\n", "no file x.png", "relative to",
    ),
    "missing mask after a glob": (
        TOP + f"edit: {{{MUG}}}\nmatrix: {{zip: [{{mask: ['masks/m*', ^x.png]}}]}}\n", "no file x.png", "relative to",
    ),
    "moderation of rows": (
        "name: a\nprompts: [A cat, {file: p.csv, image: photo}]\nsettings: {moderation: ^low}\n",
        "not for edits", "remove it",
    ),
    "broken image behind a glob": (
        TOP + "matrix: {image: [assets/mug.png, ^'assets/br*']}\n", "assets/broken.png is broken", "again",
    ),
    "no picture": (TOP + "edit: {images: ^assets/notes.png}\n", "assets/notes.png is text", "picture's file"),
    "empty glob": (TOP + "edit: {images: [^'nothing/*.png']}\n", "no file matches nothing/*.png", "relative to"),
    "empty glob of an axis": (TOP + "matrix: {image: ^'nothing/*.png'}\n", "no file matches", "relative to"),
    "empty glob of a mask": (TOP + "matrix: {mask: [^'nothing/*.png']}\n", "no file matches", "relative to"),
    "glob in an include": (
        TOP + "matrix: {image: [assets/mug.png], include: [{image: ^'many/*'}]}\n", "a glob in `include`", "one entry",
    ),
    "zip with a glob": (
        TOP + "matrix: {zip: [{image: ['many/*'], ^mask: [masks/mug.png]}]}\n", "'mask' has 1 value", "equally many",
    ),
    "too many images": (TOP + "edit: {images: ^'many/*'}\n", "17 images for one request", "matrix: {image: [...]}"),
    "too many in a set": (TOP + "matrix: {image: [^['many/*']]}\n", "17 images", "one task for each"),
    "too many with references": (
        TOP + f"edit: {{{MUG}, references: ^['many/1?.png', 'many/*']}}\n", "25 images", "one task for each",
    ),
    "missing mask": (TOP + f"edit: {{{MUG}, mask: ^masks/mgu.png}}\n", "no file masks/mgu", "mug.png?"),
    "mask of another size": (
        TOP + f"edit: {{{MUG}, mask: ^masks/small.png}}\n", "is 32x24, and assets/mug.png is 64x48", "resize: true",
    ),
    "mask of an axis": (TOP + f"edit: {{{MUG}}}\nmatrix: {{mask: [^masks/small.png]}}\n", "is 32x24", "resize: true"),
    "mask without alpha": (TOP + f"edit: {{{MUG}, mask: ^masks/white.png}}\n", "no transparency", "white_is_edit"),
    "box outside": (TOP + f"edit: {{{MUG}, mask: ^{{box: [0, 0, 65, 9]}}}}\n", "reaches beyond", "pixels"),
    "mask without an image": (
        TOP + "edit: {references: style/a.png, mask: ^masks/mug.png}\n", "a mask without an image", "`images`",
    ),
    "mask axis without an image": (TOP + "matrix: {mask: [^masks/mug.png]}\n", "a mask without an image", "`images`"),
    "composite without a mask": (TOP + f"edit: {{{MUG}, composite: ^true}}\n", "without a mask", "add a `mask`"),
    "an edit of nothing": (TOP + "^edit: {composite: true}\n", "without images", "write `images"),
    "a prompt's edit of nothing": ("name: a\nprompts: [{text: b, ^edit: {feather: 3}}]\n", "without images", "remove"),
    # what goes with it
    "model without edits": (f"name: a\nmodel: ^dall-e-3\nprompts: [b]\nedit: {{{MUG}}}\n", "makes no edits", "another"),
    "fallback without edits": (
        TOP + f"settings: {{quality: auto}}\nfallback_model: ^dall-e-3\nedit: {{{MUG}}}\n",
        "for fallback_model: dall-e-3 makes no edits", "another fallback_model",
    ),
    "moderation": (TOP + f"edit: {{{MUG}}}\nsettings: {{moderation: ^low}}\n", "not for edits", "remove it here"),
    "moderation axis": (TOP + f"edit: {{{MUG}}}\nmatrix: {{moderation: [auto, ^low]}}\n", "not for edits", "remove"),
    "fidelity of mini": (TOP + f"edit: {{{MUG}, input_fidelity: ^high}}\n", "takes no input_fidelity", "another model"),
    "fidelity": (
        TOP + f"model: gpt-image-1.5\nedit: {{{MUG}, input_fidelity: ^hihg}}\n", "'hihg'", "did you mean high?",
    ),
    "fidelity of the fallback": (
        TOP + f"model: gpt-image-1.5\nfallback_model: gpt-image-2\nedit: {{{MUG}, input_fidelity: ^high}}\n",
        "for fallback_model: gpt-image-2 takes no input_fidelity", "both models",
    ),
    # templates and names
    "part of an image": (f"name: a\nprompts: ['A {{{{ image.^stm }}}}']\nedit: {{{MUG}}}\n", "'stm'", "image.stem"),
    "image where there is none": ("name: a\nprompts: ['A {{ ^image.stem }}']\n", "'image', which does not", "known"),
    "images with one name": (
        TOP + "matrix: {image: [assets/mug.png, assets/cup.jpg]}\noutput: {name: ^'{{ sample }}'}\n",
        "differ in 'image'", "{{ image }}",
    ),
    # columns
    "image column": ("name: a\nprompts: [{file: p.csv, image: ^foto}]\n", "no column 'foto'", "did you mean photo?"),
    "mask column": ("name: a\nprompts: [{file: p.csv, mask: ^aera}]\n", "no column 'aera'", "did you mean area?"),
    "columns of text": ("name: a\nprompts: [{file: ^p.txt, image: photo}]\n", "no columns", "CSV"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_at_its_place(folder: Path, text: str, message: str, hint: str) -> None:
    """Line and column are those of the offending word, before a row or a request is needed."""
    (folder / "p.csv").write_text("text,photo,area\nA,assets/mug.png,\n")
    (folder / "p.txt").write_text("A\n")
    clean, place = marked(text)
    error = refused(clean, base_dir=folder)
    assert error.place == f"job.yaml:{place}"
    assert message in error.message
    assert hint in (error.hint or "")


def test_all_problems_are_told_together(folder: Path) -> None:
    """Images of the job, of prompts and of axes, in the order of the file."""
    error = refused(
        "name: a\n"
        "edit: {references: [x1.png, x2.png]}\n"
        "prompts:\n"
        "  - {text: A, edit: {images: x3.png}}\n"
        "  - {text: B, edit: {images: assets/mug.png, mask: {box: [0, 0, 99, 9]}}}\n"
        "  - {text: C, edit: {images: 'x4/*'}}\n"
        "matrix: {moderation: [low]}\n",
        base_dir=folder,
    )
    text = str(error)
    assert error.place == "job.yaml:2:21"
    for found in ("job.yaml:2:29: there is no file x2.png", "job.yaml:4:30: there is no file x3.png",
                  "job.yaml:6:30: no file matches x4/*", "job.yaml:7:23: moderation 'low'"):  # fmt: skip
        assert found in text


def test_each_value_of_an_axis_is_told(folder: Path) -> None:
    """One look mends them all; each once, however many combinations it is in."""
    error = refused(
        "name: a\nprompts: [A, B]\nmatrix:\n  size: [1024x1024, 1536x1024]\n  image:\n    - x1.png\n    - x2.png\n",
        base_dir=folder,
    )
    assert error.place == "job.yaml:6:7"
    assert str(error).count("x1.png") == 1
    assert str(error).count("also ") == 1


# (header and rows, line of the mistake, part of the message)
ROWS = {
    "first row": ("assets/mgu.png,\n", 2, "no file assets/mgu.png"),
    "later row": ("assets/mug.png,\nassets/mgu.png,\n", 3, "no file assets/mgu.png"),
    "mask of a row": ("assets/mug.png,\nassets/mug.png,masks/small.png\n", 3, "is 32x24"),
    "mask without image": ("assets/mug.png,\n,masks/mug.png\n", 3, "a mask without an image"),
    "too many": ("assets/mug.png,\n" + "|".join(["assets/mug.png"] * 17) + ",\n", 3, "17 images"),
    "bad shape": ('assets/mug.png,"{""box"": [1]}"\n', 2, "a box is four numbers"),
    "glob in a row": ("assets/mug.png,\nassets/*.png,\n", 3, "no file assets/*.png"),
}


@pytest.mark.parametrize(("rows", "line", "message"), ROWS.values(), ids=ROWS)
def test_a_bad_row_is_told_with_its_line(folder: Path, rows: str, line: int, message: str) -> None:
    """File and line of the row; the digest tells the same."""
    (folder / "p.csv").write_text("photo,area,text\n" + "".join(f"{row},A\n" for row in rows.splitlines()))
    text = "name: a\nprompts: {file: p.csv, text: text, image: photo, mask: area}\n"
    error = refused(text, base_dir=folder)
    assert (error.source, error.line) == (str(folder / "p.csv"), line)
    assert message in error.message
    if line > 2:
        with pytest.raises(InputError) as caught:
            loads(text, base_dir=folder).digest(simulated=False)
        assert str(caught.value) == str(error)


def test_a_mask_of_the_manifest_is_judged_with_the_first_row(folder: Path) -> None:
    """It is the manifest's line that names the mask; a later image that it does not fit is the row's."""
    (folder / "p.csv").write_text("photo,text\nassets/mug.png,A\nassets/vase.webp,B\n")
    text = "name: a\nprompts: {file: p.csv, text: text, image: photo}\nedit: {mask: %s}\n"
    assert refused(text % "masks/small.png", base_dir=folder).place == "job.yaml:3:14"
    error = refused(text % "masks/mug.png", base_dir=folder)
    assert (error.source, error.line) == (str(folder / "p.csv"), 3)


def test_references_are_judged_without_a_row_s_help(folder: Path) -> None:
    """What no row decides is the manifest's mistake."""
    (folder / "p.csv").write_text("photo,text\nassets/mug.png,A\n")
    text = "name: a\nprompts: {file: p.csv, text: text, image: photo}\nedit: {references: x.png}\n"
    assert refused(text, base_dir=folder).place == "job.yaml:3:20"


def test_an_override_s_image_is_its_own_place(folder: Path) -> None:
    """What was typed on the command line is told as that."""
    error = refused(TOP, "matrix.image=[assets/mgu.png]", base_dir=folder)
    assert str(error).startswith("--set matrix.image=[assets/mgu.png]: there is no file assets/mgu.png")


def test_the_same_content_under_two_names_is_the_same_task(folder: Path) -> None:
    """Two files with one content have one key: the plan tells that they clash."""
    (folder / "assets/copy.png").write_bytes((folder / "assets/mug.png").read_bytes())
    loaded = job("matrix: {image: [assets/mug.png, assets/copy.png]}", base_dir=folder)
    one, two = manifest.expand(loaded, simulated=False)
    assert (one.key == two.key, one.name == two.name) == (True, False)


def test_memory_does_not_grow_with_rows_that_name_images(folder: Path) -> None:
    """Nothing of a row is kept: eight times the rows, and less than 25 bytes for each of them."""

    def kept_bytes(rows: int) -> int:
        with (folder / "p.csv").open("w") as file:
            file.write("photo,text\n")
            file.writelines(f"many/{row % 17}.png,Picture {row}\n" for row in range(rows))
        loaded = job("prompts: {file: p.csv, image: photo}", base_dir=folder)
        tracemalloc.start()
        expanded = manifest.expand(loaded, simulated=False)
        for _ in itertools.islice(expanded, rows - 1):
            pass
        gc.collect()
        # A path's parts are interned by pathlib, in a table that all of Python shares.
        snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, "*pathlib*")])
        tracemalloc.stop()
        assert len(list(expanded)) == 1
        return sum(one.size for one in snapshot.statistics("filename"))

    few = kept_bytes(500)
    assert kept_bytes(4000) - few < 4000 * 25
