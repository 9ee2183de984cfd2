"""What tasks start from: images, references and masks from the job, prompts, rows and the matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import manifest
from runner.errors import ManifestError
from runner.inputs import Inputs, Mask, Prepare
from runner.tasks import Task, task_key
from tests.rules.manifest_data import draw, draw_all, job, loads, tasks


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """A manifest's folder with pictures; some tests change them."""
    draw_all(tmp_path)
    return tmp_path


def started(task: Task) -> list[str]:
    """The files that a task starts from, as its recipes have them: images, then `mask:` and the mask's."""
    assert task.request.edit is not None
    recipes = [json.loads(source.recipe) for source in task.sources]
    names = [str(recipe["path"]) for recipe in recipes if "mask" not in recipe]
    masks = [recipe["mask"].get("file") or ("box" if "box" in recipe["mask"] else "polygon")
             for recipe in recipes if "mask" in recipe]  # fmt: skip
    every = [*task.request.edit.images, *([task.request.edit.mask] if task.request.edit.mask else [])]
    assert [one.identity for one in every] == [source.identity for source in task.sources]
    return [*names, *(f"mask:{name}" for name in masks)]


def test_all_images_go_into_one_request(folder: Path) -> None:
    """Paths and globs in the order written, references after them, and the mask last."""
    (task,) = tasks(
        job(
            "edit: {images: [assets/mug.png, 'assets/[cv]*'], references: 'style/*.png', mask: masks/mug.png}",
            base_dir=folder,
        )
    )
    assert started(task) == [
        "assets/mug.png", "assets/cup.jpg", "assets/vase.webp", "style/a.png", "style/b.png", "mask:masks/mug.png",
    ]  # fmt: skip
    assert task.request.edit is not None
    assert [(one.width, one.height) for one in task.request.edit.images[:3]] == [(64, 48), (64, 48), (32, 32)]
    assert task.key == task_key(task.request, sample=1, edition=None, simulated=False)


def test_one_path_is_a_list_of_one(folder: Path) -> None:
    """The short form is the long one."""
    short, long = (
        tasks(job(f"edit: {{images: {images}}}", base_dir=folder))[0]
        for images in ("assets/mug.png", "[assets/mug.png]")
    )
    assert short.key == long.key


@pytest.mark.parametrize(
    ("job_level", "prompt", "row", "axis", "expected"),
    [
        ("images: assets/mug.png", "", "", "", "assets/mug.png"),
        ("images: assets/mug.png", "images: assets/cup.jpg", "", "", "assets/cup.jpg"),
        ("images: assets/mug.png", "images: assets/cup.jpg", "assets/vase.webp", "", "assets/vase.webp"),
        ("images: assets/mug.png", "images: assets/cup.jpg", "assets/vase.webp", "style/a.png", "style/a.png"),
        ("images: assets/mug.png", "", "", "style/a.png", "style/a.png"),
    ],
)
def test_who_wins(folder: Path, job_level: str, prompt: str, row: str, axis: str, expected: str) -> None:
    """The axis over the row, the row over the prompt, the prompt over the job."""
    (folder / "p.csv").write_text(f"text,picture\nA cat,{row}\n")
    found = tasks(
        job(
            f"prompts: [{{file: p.csv, text: text, image: picture, edit: {{{prompt}}}}}]\nedit: {{{job_level}}}\n"
            + (f"matrix: {{image: [{axis}]}}\n" if axis else ""),
            base_dir=folder,
        )
    )
    assert [started(task) for task in found] == [[expected]]


def test_a_prompt_s_keys_win_one_by_one(folder: Path) -> None:
    """What a prompt does not say is the job's; `null` takes the job's away."""
    found = tasks(
        job(
            "edit: {images: assets/mug.png, references: [style/a.png], mask: masks/mug.png, feather: 4}\n"
            "prompts:\n"
            "  - A\n"
            "  - {text: B, edit: {mask: {box: [0, 0, 8, 8]}}}\n"
            "  - {text: C, edit: {references: null, mask: null}}\n"
            "  - {text: D, edit: {images: null, references: null, mask: null}}\n",
            base_dir=folder,
        )
    )
    assert [started(task) for task in found[:3]] == [
        ["assets/mug.png", "style/a.png", "mask:masks/mug.png"],
        ["assets/mug.png", "style/a.png", "mask:box"],
        ["assets/mug.png"],
    ]
    assert (found[3].request.edit, found[3].sources, found[3].composite) == (None, (), None)


def test_the_axis_makes_a_task_for_each_image(folder: Path) -> None:
    """A glob is several values, a list one set; the variant says what it was."""
    found = tasks(
        job(
            "matrix:\n  image: ['assets/[cm]*', [assets/vase.webp, style/a.png], ['style/*']]\n"
            "edit: {references: style/b.png}\n",
            base_dir=folder,
        )
    )
    assert [started(task) for task in found] == [
        ["assets/cup.jpg", "style/b.png"],
        ["assets/mug.png", "style/b.png"],
        ["assets/vase.webp", "style/a.png", "style/b.png"],
        ["style/a.png", "style/b.png", "style/b.png"],
    ]
    assert [dict(task.variant)["image"] for task in found] == [
        "assets/cup.jpg",
        "assets/mug.png",
        "assets/vase.webp|style/a.png",
        "style/a.png|style/b.png",
    ]
    assert len({task.key for task in found}) == len({task.name for task in found}) == 4


def test_overlapping_globs_name_an_image_once(folder: Path) -> None:
    """An axis asks for each image once, whichever globs find it."""
    found = tasks(job("matrix: {image: [assets/mug.png, 'assets/*']}", base_dir=folder))
    assert [started(task)[0] for task in found] == ["assets/mug.png", "assets/cup.jpg", "assets/vase.webp"]


def test_zip_pairs_and_the_product_crosses(folder: Path) -> None:
    """In a zip group globs count as what they find; everything else is crossed with it."""
    found = tasks(
        job(
            "prompts: [{id: a, text: A}, {id: b, text: B}]\n"
            "matrix:\n"
            "  size: [1024x1024, 1536x1024]\n"
            "  zip:\n"
            "    - {image: ['assets/[cm]*'], mask: [{box: [0, 0, 9, 9]}, masks/mug.png], label: [round, tall]}\n",
            base_dir=folder,
        )
    )
    assert len(found) == 2 * 2 * 2
    pairs = {(dict(task.variant)["label"], *started(task)) for task in found}
    assert pairs == {("round", "assets/cup.jpg", "mask:box"), ("tall", "assets/mug.png", "mask:masks/mug.png")}


def test_exclude_and_include_know_images_and_masks(folder: Path) -> None:
    """By path, by set and by mask; an included combination may bring its own."""
    found = tasks(
        job(
            "prompts: ['{{ image }}/{{ mask | default(0) }}']\nmodel: gpt-image-2\n"
            "matrix:\n"
            "  image: [assets/mug.png, assets/cup.jpg]\n"
            "  mask: [masks/mug.png, {box: [1, 2, 3, 4], feather: 2}]\n"
            "  exclude:\n"
            "    - {image: assets/cup.jpg, mask: masks/mug.png}\n"
            "    - {image: assets/mug.png, mask: {box: [1, 2, 3, 4], feather: 2}}\n"
            "  include:\n"
            "    - {image: [assets/vase.webp, style/a.png], size: 1024x1024}\n",
            base_dir=folder,
        )
    )
    assert [task.request.prompt for task in found] == [
        "assets/mug.png/masks/mug.png",
        "assets/cup.jpg/box(1,2,3,4) feather=2",
        "assets/vase.webp|style/a.png/0",
    ]


def test_rows_name_images_and_masks(folder: Path) -> None:
    """Several images of a cell are separated by |; an empty cell leaves it to the manifest; ids tell rows apart."""
    (folder / "p.csv").write_text(
        "title,photo,area\n"
        "A,assets/mug.png,masks/mug.png\n"
        "A,assets/cup.jpg | style/a.png,\n"
        "A,,\n"
        "A,assets/mug.png,\n"
    )  # fmt: skip
    loaded = job(
        "prompts: {file: p.csv, text: title, image: photo, mask: area}\nedit: {images: assets/vase.webp}\n",
        base_dir=folder,
    )
    found = tasks(loaded)
    assert [started(task) for task in found] == [
        ["assets/mug.png", "mask:masks/mug.png"],
        ["assets/cup.jpg", "style/a.png"],
        ["assets/vase.webp"],
        ["assets/mug.png"],
    ]
    assert len({task.prompt_id for task in found}) == 4
    assert [task.origin.line for task in found] == [2, 3, 4, 5]


def test_a_row_without_an_image_is_a_plain_request(folder: Path) -> None:
    """Where nothing names an image, the task is an ordinary generation with its ordinary key."""
    (folder / "p.csv").write_text("title,photo\nA cat,assets/mug.png\nA cat,\n")
    found = tasks(job("prompts: {file: p.csv, text: title, image: photo}", base_dir=folder))
    assert found[0].request.edit is not None
    assert found[1].key == tasks(job("prompts: [A cat]"))[0].key


def test_rows_of_jsonl_can_hold_lists_and_shapes(folder: Path) -> None:
    """A list of images and a drawn mask, as JSON has them; in a CSV cell too."""
    (folder / "p.jsonl").write_text(
        '{"text": "A", "image": ["assets/mug.png", "style/a.png"], "mask": {"box": [1, 2, 30, 40], "feather": 3}}\n'
        '{"text": "B", "image": "assets/cup.jpg", "mask": {"polygon": [[0, 0], [9, 0], [9, 9]]}}\n'
        '{"text": "C", "image": [], "mask": null}\n'
    )
    found = tasks(job("prompts: {file: p.jsonl, image: image, mask: mask}\n", base_dir=folder))
    assert started(found[0]) == ["assets/mug.png", "style/a.png", "mask:box"]
    assert started(found[1]) == ["assets/cup.jpg", "mask:polygon"]
    assert found[2].request.edit is None
    (folder / "p.csv").write_text('text,image,mask\nA,assets/mug.png,"{""box"": [1, 2, 30, 40]}"\n')
    (task,) = tasks(job("prompts: {file: p.csv, image: image, mask: mask}\n", base_dir=folder))
    assert task.request.edit is not None
    assert found[0].request.edit is not None
    assert task.request.edit.mask == found[0].request.edit.mask


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        ("mask: masks/mug.png", Mask("masks/mug.png")),
        ("mask: masks/white.png, mask_mode: white_is_edit", Mask("masks/white.png", mode="white_is_edit")),
        (
            "mask: {file: masks/white.png, mask_mode: black_is_edit}, mask_mode: white_is_edit",
            Mask("masks/white.png", mode="black_is_edit"),
        ),
        ("mask: masks/small.png, resize: true", Mask("masks/small.png", resize=True)),
        ("mask: {file: masks/small.png, resize: true, feather: 8}", Mask("masks/small.png", resize=True, feather=8)),
        ("mask: {box: [1, 2, 30, 40]}, feather: 5, mask_mode: white_is_edit", Mask(box=(1, 2, 30, 40), feather=5)),
        ("mask: {box: [1, 2, 30, 40], feather: 0}, feather: 5", Mask(box=(1, 2, 30, 40))),
        ("mask: {polygon: [[0, 0], [9, 0], [9, 9]]}", Mask(polygon=((0, 0), (9, 0), (9, 9)))),
    ],
)
def test_masks_in_each_way(folder: Path, edit: str, expected: Mask) -> None:
    """What the manifest says is what the mask is made by; a mask's own word wins over the edit's."""
    (task,) = tasks(
        job(f"edit: {{images: assets/mug.png, prepare: {{max_side: 32}}, composite: true, {edit}}}", base_dir=folder)
    )
    inputs = Inputs(folder)
    prepare = Prepare(max_side=32)
    assert task.request.edit is not None
    assert task.request.edit.images == (inputs.image("assets/mug.png", prepare).input,)
    assert task.request.edit.mask == inputs.mask(expected, "assets/mug.png", prepare).input
    assert task.composite == inputs.composite("assets/mug.png", expected)


def test_prepare_is_part_of_what_is_sent(folder: Path) -> None:
    """Every image goes through it, references too; its quality is 90 unless it says so."""
    (task,) = tasks(
        job(
            "edit: {images: assets/mug.png, references: style/a.png, prepare: {format: webp, quality: 70}}",
            base_dir=folder,
        )
    )
    inputs = Inputs(folder)
    assert [source.identity for source in task.sources] == [
        inputs.image(name, Prepare(format="webp", quality=70)).source.identity
        for name in ("assets/mug.png", "style/a.png")
    ]


def test_fidelity_is_part_of_the_request(folder: Path) -> None:
    """For a model that has it."""
    (task,) = tasks(job("model: gpt-image-1.5\nedit: {images: assets/mug.png, input_fidelity: high}", base_dir=folder))
    assert task.request.edit is not None
    assert task.request.edit.fidelity == "high"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ image }}", "assets/mug.png"),
        ("{{ image.stem }} {{image.name}} {{ image.suffix }}", "mug mug.png .png"),
        ("{{ image.width }}x{{ image.height }}", "64x48"),
        ("{{ image.stem | upper }} {{ image.width * 2 }}", "MUG 128"),
        ("{{ image.upper() }} {{ image['stem'] }}", "ASSETS/MUG.PNG mug"),
        ("{{ mask.stem }} {{ mask }}", "box box(1,2,3,4)"),
        ("{% if image.stem == 'mug' %}yes{% endif %}", "yes"),
    ],
)
def test_variables_of_prompts(folder: Path, text: str, expected: str) -> None:
    """The path as written and its parts, in simple templates and in those that do more."""
    rest = f"prompts: [{json.dumps(text)}]\nedit: {{images: assets/mug.png, mask: {{box: [1, 2, 3, 4]}}}}\n"
    assert [task.request.prompt for task in tasks(job(rest, base_dir=folder))] == [expected]


def test_variables_of_rows(folder: Path) -> None:
    """A row's image is a variable of the template and of the name."""
    (folder / "p.csv").write_text("title,photo\nA,assets/mug.png\nB,assets/vase.webp\n")
    found = tasks(
        job(
            "prompts: {file: p.csv, image: photo, template: '{{ text }} of {{ image.stem }}, {{ image.width }}'}\n"
            "output: {name: '{{ image.stem }}/{{ sample }}'}\nsamples: 2\n",
            base_dir=folder,
        )
    )
    assert [(task.request.prompt, task.name) for task in found] == [
        ("A of mug, 64", "mug/1.png"),
        ("A of mug, 64", "mug/2.png"),
        ("B of vase, 32", "vase/1.png"),
        ("B of vase, 32", "vase/2.png"),
    ]


def test_a_column_may_be_called_image(folder: Path) -> None:
    """Where nothing starts from an image, it is a column like any other."""
    (folder / "p.csv").write_text("title,image\nA,red\n")
    (task,) = tasks(job("prompts: {file: p.csv, template: '{{ text }} {{ image }}'}", base_dir=folder))
    assert task.request.prompt == "A red"
    assert task.request.edit is None


@pytest.mark.parametrize(
    ("matrix", "names"),
    [
        ("image: ['assets/[cm]*']", ["p/auto-auto-cup-1.png", "p/auto-auto-mug-1.png"]),
        ("image: [assets/mug.png], mask: [masks/mug.png]", ["p/auto-auto-1.png"]),
        (
            "image: [assets/mug.png, masks/mug.png]",
            ["p/auto-auto-assets-mug.png-1.png", "p/auto-auto-masks-mug.png-1.png"],
        ),
        (
            "image: assets/mug.png, mask: [{box: [0, 0, 4, 4]}, {box: [1, 1, 4, 4]}]",
            ["p/auto-auto-box-0-0-4-4-1.png", "p/auto-auto-box-1-1-4-4-1.png"],
        ),
    ],
)
def test_default_names_tell_images_apart(folder: Path, matrix: str, names: list[str]) -> None:
    """By the stem, or the whole path where stems are not distinct."""
    found = tasks(job(f"prompts: [{{id: p, text: A}}]\nmatrix: {{{matrix}}}", base_dir=folder))
    assert [task.name for task in found] == names


def test_a_name_without_an_image(folder: Path) -> None:
    """A task that has none is `none` in the name, its parts too."""
    found = tasks(
        job(
            "prompts: [{id: a, text: A, edit: {images: assets/mug.png}}, {id: b, text: B}]\n"
            "output: {name: '{{ prompt_id }}-{{ image.stem }}-{{ image.name | upper }}'}\n",
            base_dir=folder,
        )
    )
    assert [task.name for task in found] == ["a-mug-MUG.PNG.png", "b-none-NONE.png"]


def test_ids_tell_what_a_prompt_starts_from(folder: Path) -> None:
    """Equal texts with edits of their own have ids of their own; without one the id is what it always was."""
    found = tasks(
        job(
            "prompts:\n  - A cat\n  - {text: A cat, edit: {images: assets/mug.png}}\n"
            "  - {text: A cat, edit: {images: assets/cup.jpg}}\n",
            base_dir=folder,
        )
    )
    assert len({task.prompt_id for task in found}) == 3
    assert found[0].prompt_id == tasks(job("prompts: [A cat]"))[0].prompt_id == "a-cat-a7a8377f"


def test_a_pixel_counts_and_a_name_does_not(folder: Path) -> None:
    """The key is that of what is sent: a changed pixel is a new task, a renamed file is the same."""

    def key(name: str = "assets/mug.png") -> str:
        return tasks(job(f"edit: {{images: {name}, mask: {{box: [0, 0, 9, 9]}}}}", base_dir=folder))[0].key

    first = key()
    (folder / "assets/mug.png").rename(folder / "assets/other.png")
    assert key("assets/other.png") == first
    draw(folder / "assets/mug.png", shade=11)
    assert key() != first


def test_the_digest_covers_what_tasks_start_from(folder: Path) -> None:
    """A changed pixel, another file that a glob finds, another feather; not when a file was written."""
    (folder / "p.csv").write_text("title,photo\nA,assets/mug.png\n")
    manifests = {
        "job": "edit: {images: 'assets/*'}",
        "axis": "matrix: {image: 'assets/*'}",
        "row": "prompts: {file: p.csv, image: photo}",
        "mask": "edit: {images: assets/vase.webp, mask: assets/mug.png, mask_mode: black_is_edit, resize: true}",
    }

    def digests() -> dict[str, str]:
        return {name: job(rest, base_dir=folder).digest(simulated=False) for name, rest in manifests.items()}

    first = digests()
    assert len(set(first.values())) == 4
    os.utime(folder / "assets/mug.png", (1, 1))
    assert digests() == first
    draw(folder / "assets/mug.png", shade=12)
    second = digests()
    assert all(second[name] != first[name] for name in manifests)
    draw(folder / "assets/new.png")
    third = digests()
    assert (third["row"], third["mask"]) == (second["row"], second["mask"])
    assert third["job"] != second["job"]
    assert third["axis"] != second["axis"]


def test_the_digest_tells_a_composite_s_feather(folder: Path) -> None:
    """It is no part of the key, and the ledger has to hear of it."""
    one, two = (
        job(f"edit: {{images: assets/mug.png, mask: {{box: [0, 0, 9, 9]}}, composite: true, feather: {feather}}}",
            base_dir=folder)
        for feather in (1, 2)
    )  # fmt: skip
    assert tasks(one)[0].key == tasks(two)[0].key
    assert tasks(one)[0].composite != tasks(two)[0].composite
    assert one.digest(simulated=False) != two.digest(simulated=False)


RESOLVED = [
    "edit: {images: ['assets/*'], references: 'style/*', prepare: {max_side: 32, format: webp}}",
    "prompts:\n  - {text: A, edit: {images: 'assets/[cm]*'}}\n  - {text: A, edit: {images: 'style/*', mask: null}}\n"
    "edit: {mask: {file: masks/mug.png, feather: 3}, composite: false}",
    "prompts: {file: p.csv, image: photo, mask: area}\nedit: {images: assets/cup.jpg, mask_mode: white_is_edit}",
    "matrix:\n  zip: [{image: 'assets/[cm]*', mask: [masks/mug.png, {polygon: [[0, 0], [9, 0], [9, 9]]}]}]\n"
    "  include: [{image: [style/a.png, style/b.png], mask: {box: [0, 0, 4, 4]}}]\n",
    "prompts: ['{{ image.stem }}']\n"
    "matrix: {image: [['style/*'], assets/mug.png], exclude: [{image: assets/mug.png}]}\n",
]


@pytest.mark.parametrize("rest", RESOLVED)
def test_resolved_is_the_same_manifest(folder: Path, rest: str) -> None:
    """What --resolved prints loads again to the same tasks and the same digest; globs are files by then."""
    (folder / "p.csv").write_text("title,photo,area\nA,assets/mug.png,masks/white.png\nA,,masks/white.png\n")
    loaded = job(rest, base_dir=folder)
    text = manifest.resolved(loaded)
    assert "*" not in text
    again = loads(text, base_dir=folder)
    assert manifest.resolved(again) == text
    assert again.digest(simulated=False) == loaded.digest(simulated=False)
    told = [
        [(t.key, t.name, t.prompt_id, t.variant, t.sources, t.composite) for t in tasks(m)] for m in (loaded, again)
    ]
    assert told[0] == told[1]


def test_values_on_the_command_line(folder: Path) -> None:
    """Paths lead into edits, through their short forms."""
    text = "name: a\nprompts: [{id: p, text: A}]\nedit: {images: assets/mug.png, mask: masks/mug.png}\n"
    (task,) = tasks(loads(text, "edit.composite=true", "edit.mask.feather=3", "edit.images.1=style/a.png",
                          base_dir=folder))  # fmt: skip
    assert started(task) == ["assets/mug.png", "style/a.png", "mask:masks/mug.png"]
    assert task.composite is not None
    assert json.loads(task.composite)["mask"]["feather"] == 3
    found = tasks(loads(text, "matrix.image=[assets/mug.png, 'assets/c*']", "prompts.0.edit.mask.box=[0,0,4,4]",
                        "prompts.0.edit.mask.file=", base_dir=folder))  # fmt: skip
    assert [started(task) for task in found] == [["assets/mug.png", "mask:box"], ["assets/cup.jpg", "mask:box"]]
    (plain,) = tasks(loads("name: a\nprompts: [A]\n", "edit.images=assets/mug.png", base_dir=folder))
    assert started(plain) == ["assets/mug.png"]


def test_a_file_that_looks_like_a_glob(folder: Path) -> None:
    """A name that is there is that file, whatever signs are in it."""
    draw(folder / "assets/a[1].png")
    (task,) = tasks(job("edit: {images: 'assets/a[1].png'}", base_dir=folder))
    assert started(task) == ["assets/a[1].png"]
    (task,) = tasks(job("matrix: {image: 'assets/a[1].png'}", base_dir=folder))
    assert started(task) == ["assets/a[1].png"]


def test_what_changes_between_loading_and_expanding_is_told(folder: Path) -> None:
    """A picture that is lost meanwhile is refused in words, with the line that names it."""
    loaded = job("edit: {images: assets/mug.png}\n", base_dir=folder)
    by_axis = job("matrix: {image: 'assets/*'}\n", base_dir=folder)
    (folder / "assets/mug.png").unlink()
    for one in (loaded, by_axis):
        with pytest.raises(ManifestError, match=r"there is no file assets/mug\.png") as caught:
            tasks(one)
        assert caught.value.line == 3
        with pytest.raises(ManifestError, match=r"there is no file assets/mug\.png") as caught:
            one.digest(simulated=False)
        assert caught.value.line == 3


def test_a_manifest_without_edits_imports_nothing_of_them() -> None:
    """Neither the reader of pictures nor Pillow."""
    program = (
        "import sys; from pathlib import Path; from runner import catalog, manifest\n"
        "m = manifest.loads('name: a\\nprompts: [A cat]\\nmatrix: {size: [auto]}\\n', source='j', base_dir=Path('.'),"
        " catalog=catalog.load())\n"
        "list(manifest.expand(m, simulated=False)); m.digest(simulated=False); manifest.resolved(m)\n"
        "print([name for name in ('runner.inputs', 'PIL') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
