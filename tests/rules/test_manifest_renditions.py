"""`renditions:` of a manifest: what is understood, what is refused and where; it decides nothing of the images."""

from __future__ import annotations

import pytest
import yaml

from runner import manifest
from runner.ledger import COMPOSITE, THUMBNAIL
from runner.manifest.rendering import MAX_RENDITIONS
from runner.renditions.recipe import RESERVED, Recipe, recipe_of
from tests.rules.manifest_data import job, marked, refused, tasks

TOP = "name: a\nprompts: [A cat]\n"
CARD = "renditions:\n  - {name: card, width: 600, height: 400, fit: cover, format: jpeg, quality: 70}\n"


def one(words: str) -> Recipe:
    """The recipe of a rendition called `x`."""
    (found,) = job(f"renditions: [{{name: x, {words}}}]\n").recipes
    return found


def test_a_rendition_is_a_recipe() -> None:
    """Every key arrives, and those that are left out are the recipe's own."""
    text = (
        "renditions:\n"
        "  - {name: card, width: 600, height: 400, fit: cover, gravity: entropy, format: jpeg, quality: 70}\n"
        "  - {name: icon, height: 64, background: '#AbC', format: png}\n"
    )
    card, icon = job(text).recipes
    assert card == Recipe("card", 600, 400, "cover", "jpeg", 70, None, "entropy")
    assert icon == Recipe("icon", None, 64, "inside", "png", None, "#aabbcc")
    assert job("").recipes == ()


@pytest.mark.parametrize(
    "colour", ["white", "WHITE", "'#fff'", "'#FFFFFF'"]
)  # the quotes are YAML's: a # begins a comment
def test_one_colour_is_one_recipe(colour: str) -> None:
    """However a colour is written, its pictures are not made again."""
    assert one(f"width: 9, background: {colour}").background == "#ffffff"


def test_transparent_is_no_background() -> None:
    """What is the default can be written out."""
    assert one("width: 9, background: transparent").digest == one("width: 9").digest


@pytest.mark.parametrize(
    "other",
    ["width: 10", "width: 9, height: 9", "width: 9, fit: contain", "width: 9, format: png", "width: 9, quality: 7"],
)
def test_a_changed_recipe_has_another_digest(other: str) -> None:
    """It is by the digest that a rendition is known to be out of date."""
    assert one(other).digest != one("width: 9").digest


def test_a_name_is_no_part_of_a_recipe() -> None:
    """It changes no pixel. And a recipe survives being told to another process."""
    recipe = one("width: 9, height: 3, fit: pad, background: red")
    assert Recipe("another", 9, 3, "pad", background="#ff0000").digest == recipe.digest
    assert recipe_of(recipe.told()).digest == recipe.digest


def test_renditions_decide_nothing_about_the_images() -> None:
    """Law 3: to add one or to change it is the same job to the ledger, and the same tasks."""
    plain, more, other = job(""), job(CARD), job(CARD.replace("600", "300"))
    assert plain.digest(simulated=False) == more.digest(simulated=False) == other.digest(simulated=False)
    assert [task.key for task in tasks(plain)] == [task.key for task in tasks(more)]


def test_a_resolved_manifest_shows_them_and_loads_to_the_same() -> None:
    """`runner plan --resolved` fills in what was left out."""
    loaded = job("renditions: [{name: x, width: 9}, {name: y, width: 9, height: 9, fit: cover, background: red}]\n")
    text = manifest.resolved(loaded)
    assert yaml.safe_load(text)["renditions"] == [
        {"name": "x", "width": 9, "fit": "inside", "format": "webp"},
        {
            "name": "y",
            "width": 9,
            "height": 9,
            "fit": "cover",
            "format": "webp",
            "background": "#ff0000",
            "gravity": "center",
        },
    ]
    assert job(text.partition("\n")[2].replace("name: test\n", "", 1)).recipes == loaded.recipes


def test_what_is_made_anyhow_keeps_its_name() -> None:
    """The ledger's own kinds are those that a manifest cannot take."""
    assert {COMPOSITE, THUMBNAIL} == set(RESERVED)


# (what stands in the list, with ^ before the mistake; part of the message; part of the hint)
MISTAKES = {
    "no mapping": ("^small", "an entry of `renditions` must be a mapping, not 'small'", "key: value"),
    "no name": ("^{width: 9}", "the rendition has no `name`", "name: small"),
    "unknown key": ("{name: x, ^widht: 9}", "unknown key 'widht'", "did you mean width?"),
    "no size": ("^{name: x}", "the rendition 'x' has no size", "width: 512"),
    "no pixels": ("{name: x, width: ^0}", "at least 1", "1 or more"),
    "too many pixels": ("{name: x, height: ^8193}", "at most 8192", "8192 or less"),
    "half a pixel": ("{name: x, height: ^8.5}", "a whole number is wanted, not '8.5'", "digits"),
    "path as name": ("{name: ^../x, width: 9}", "'../x' cannot be a folder's name", "for example x"),
    "device as name": ("{name: ^nul, width: 9}", "'nul' cannot be a folder's name", "letters"),
    "long name": (f"{{name: ^{'x' * 65}, width: 9}}", "cannot be a folder's name", "letters"),
    "our name": ("{name: ^Composite, width: 9}", "'Composite' is taken", "another"),
    "our other name": ("{name: ^thumbnail, width: 9}", "'thumbnail' is taken", "another"),
    "name twice": ("{name: x, width: 9}, {name: ^X, width: 8}", "two renditions have the name 'X'", "its own"),
    "name twice, the other way": ("{name: X, width: 9}, {name: ^x, width: 8}", "have the name 'x'", "its own"),
    "fit": ("{name: x, width: 9, fit: ^covr}", "'covr' is no `fit`", "did you mean cover?"),
    "cover without height": ("{name: x, width: 9, fit: ^cover}", "needs width and height", "add `height`"),
    "pad without width": ("{name: x, height: 9, fit: ^pad}", "needs width and height", "add `width`"),
    "format": ("{name: x, width: 9, format: ^jpg}", "'jpg' is no `format`", "did you mean jpeg?"),
    "quality": ("{name: x, width: 9, quality: ^101}", "at most 100", "100 or less"),
    "quality of png": ("{name: x, width: 9, format: png, ^quality: 9}", "`quality` is for jpeg", "format: webp"),
    "colour": ("{name: x, width: 9, background: ^whte}", "'whte' is no colour", "did you mean white?"),
    "hexadecimal": ("{name: x, width: 9, background: ^'#12345'}", "'#12345' is no colour", "#rrggbb"),
    "transparent jpeg": (
        "{name: x, width: 9, format: jpeg, background: ^transparent}", "no transparency", "format: webp",
    ),
    "gravity": (
        "{name: x, width: 9, height: 9, fit: cover, gravity: ^sout}", "'sout' is no `gravity`", "did you mean south?",
    ),
    "gravity of what is whole": ("{name: x, width: 9, ^gravity: north}", "cuts off nothing", "fit: cover"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_at_its_place(name: str) -> None:
    """Each has the line, the column and what to write instead."""
    entries, message, hint = MISTAKES[name]
    text, place = marked(f"{TOP}renditions: [{entries}]\n")
    error = refused(text)
    assert error.place == f"job.yaml:{place}"
    assert message in error.message
    assert hint in str(error.hint)


def test_not_every_image_is_made_in_a_hundred_ways() -> None:
    """The most there can be is told."""
    entries = ", ".join(f"{{name: x{number}, width: 9}}" for number in range(MAX_RENDITIONS + 1))
    error = refused(f"{TOP}renditions: [{entries}]\n")
    assert (error.place, error.message) == ("job.yaml:3:1", f"{MAX_RENDITIONS + 1} renditions")
    assert len(job(f"renditions: [{entries.rpartition(', {')[0]}]\n").recipes) == MAX_RENDITIONS
