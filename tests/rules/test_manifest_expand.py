"""From a manifest to tasks: their order, ids, names and keys; and back to text and digest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import manifest
from runner.errors import InputError
from runner.manifest.naming import check_path, safe_part, slug
from runner.manifest.problems import Wrong
from runner.tasks import task_key
from tests.rules.manifest_data import CATALOG, job, loads, refused, tasks

DESIGN = """\
# yaml-language-server: $schema=../docs/manifest.schema.json
version: 1
name: spring-thumbnails
model: gpt-image-1-mini
fallback_model: gpt-image-2.6-flare    # used once the first has been shut down
prompts:
  - A lighthouse at dusk, flat vector style       # a string is enough
  - id: bakery
    text: "{{ product }} on a marble counter, {{ light }}"
    vars: {product: [sourdough, croissant], light: [morning light, neon]}
  - file: prompts.csv            # csv, tsv, jsonl, txt; relative to the manifest
    text: title                  # which column; `id` too, else a slug and a short hash
    where: {category: food}
    limit: 200
matrix:                          # as in GitHub Actions: the product, less `exclude`, plus `include`
  size: [1024x1024, 1536x1024]
  quality: [low, medium]
  exclude: [{size: 1536x1024, quality: medium}]
samples: 2                       # requests per variant
settings: {background: auto, output_format: png, moderation: auto}
output: {name: "{{ prompt_id }}/{{ size }}-{{ quality }}-{{ sample }}"}
limits: {concurrency: 8, images_per_minute: 50, requests_per_minute: 50, tokens_per_minute: 800000}   # or {tier: 3}
budget: {usd: 5.00, per: day}
delivery: online
"""


@pytest.fixture
def design(tmp_path: Path) -> Path:
    """A folder with the design's example and its prompt file."""
    (tmp_path / "job.yaml").write_text(DESIGN)
    (tmp_path / "prompts.csv").write_text("title,category\nA bun,food\nA car,cars\nA pie,food\n")
    return tmp_path


def test_the_example_of_the_design(design: Path) -> None:
    """It loads, and expands in order: prompts, variables, combinations, samples."""
    loaded = manifest.load(design / "job.yaml", catalog=CATALOG)
    found = tasks(loaded)
    assert len(found) == (1 + 4 + 2) * 3 * 2
    assert [task.name for task in found[6:10]] == [
        "bakery-sourdough-morning-light/1024x1024-low-1.png",
        "bakery-sourdough-morning-light/1024x1024-low-2.png",
        "bakery-sourdough-morning-light/1024x1024-medium-1.png",
        "bakery-sourdough-morning-light/1024x1024-medium-2.png",
    ]
    assert [(task.origin.source, task.origin.line) for task in found[::6]] == [
        (str(design / "job.yaml"), 7),
        *[(str(design / "job.yaml"), 8)] * 4,
        (str(design / "prompts.csv"), 2),
        (str(design / "prompts.csv"), 4),
    ]
    assert len({task.key for task in found}) == len({task.name for task in found}) == len(found)


def test_keys_are_those_of_the_request() -> None:
    """Edition and simulation count; the job's name and the prompt's id do not."""
    one = tasks(job("edition: 2026-11-22\nprompts: [{id: x, text: A cat}]\n"))[0]
    assert one.key == task_key(one.request, sample=1, edition="2026-11-22", simulated=False)
    assert tasks(loads("name: other\nedition: 2026-11-22\nprompts: [A cat]\n"))[0].key == one.key
    assert tasks(job("edition: 2026-11-22\n"), simulated=True)[0].key != one.key


def test_prompt_ids() -> None:
    """A given id made safe; else a slug and a short hash, which differ where the text does."""
    loaded = job(
        "prompts: [{id: My Bakery/1, text: a}, {id: Bäckerei, text: b}, {id: 東京, text: c}, Crème brûlée!, 東京の夜,"
        " A very long prompt about a lighthouse at dusk and much more than that]\n"
    )
    ids = [task.prompt_id for task in tasks(loaded)]
    assert ids[0] == "My-Bakery-1"
    assert ids[1] == "Backerei"
    assert ids[2].startswith("x-")
    assert ids[3].startswith("creme-brulee-")
    assert ids[4].startswith("prompt-")
    assert len(ids[5]) <= 49
    assert len(set(ids)) == 6


def test_default_names_tell_every_axis() -> None:
    """Each axis with several values is in the name, so that no two tasks of a prompt collide."""
    loaded = job(
        "prompts: [{id: p, text: '{{ tone }}'}]\nsamples: 2\n"
        "matrix: {tone: [warm/red, cold], output_format: [png, jpeg], moderation: [low], model: [gpt-image-2]}\n"
    )
    assert [task.name for task in tasks(loaded)][:5] == [
        "p/auto-auto-warm-red-png-1.png",
        "p/auto-auto-warm-red-png-2.png",
        "p/auto-auto-warm-red-jpeg-1.jpg",
        "p/auto-auto-warm-red-jpeg-2.jpg",
        "p/auto-auto-cold-png-1.png",
    ]


def test_names_of_included_combinations() -> None:
    """An axis that a combination lacks is `none` in a name."""
    loaded = job(
        "prompts: [{id: p, text: \"{{ t | default('') }}cat\"}]\n"
        "matrix: {size: [auto], include: [{t: a}, {size: 1024x1024}]}\n"
    )
    assert [task.name for task in tasks(loaded)] == ["p/auto-auto-a-1.png", "p/1024x1024-auto-none-1.png"]


def test_variables_of_names() -> None:
    """Everything documented is there; the template's own slashes make folders, those of values do not."""
    loaded = job(
        "edition: v/1\nvars: {shop: ../../etc}\nprompts: [{id: p, text: '{{ c }}', vars: {c: [a/b, '..', 'x.y']}}]\n"
        "output: {name: '{{ shop }}/{{ c }}/{{ edition }}-{{ index }}-{{ key8 }}-{{ prompt_id | upper }}'}\n"
    )
    found = tasks(loaded)
    assert found[0].name == f"etc/a-b/v-1-1-{found[0].key[:8]}-P-A-B.png"
    assert found[1].name.split("/")[1].startswith("x-")
    assert found[2].name.startswith("etc/x.y/v-1-3-")


def test_a_name_that_is_unsafe_for_one_row(tmp_path: Path) -> None:
    """Names are checked task by task too: an id may be too long beside what the template adds."""
    (tmp_path / "p.csv").write_text("text,id\nA,short\nB," + "b" * 80 + "\n")
    text = f"name: a\nprompts: {{file: p.csv, id: id}}\noutput: {{name: '{'x' * 150}-{{{{ prompt_id }}}}'}}\n"
    error = refused(text, base_dir=tmp_path)
    assert (error.source, error.line) == (str(tmp_path / "p.csv"), 3)


@given(st.text(max_size=120))
def test_any_value_makes_a_safe_part(text: str) -> None:
    """Whatever is substituted into a name is one part that every file system holds; doing it twice changes nothing."""
    part = safe_part(text)
    check_path(f"{part}.png")
    assert "/" not in part
    assert safe_part(part) == part
    assert len(slug(text)) <= 40


@given(st.text(alphabet="ab./\\ \x00:é-C", max_size=20))
def test_a_path_that_passes_stays_in_its_folder(text: str) -> None:
    """check_path lets through only relative paths of plain parts."""
    try:
        check_path(text)
    except Wrong:
        return
    parts = text.split("/")
    assert all(part and part[0] not in ". " and part[-1] not in ". " for part in parts)
    assert not set(text) & set("\\:\x00")


_words = st.sampled_from(
    ["auto", "on", "1.50", "007", "2026-11-22", "a: b", "ünï", "true", "x\ny", " s ", "'", "#1", ""]
)
_scalars = st.one_of(_words.map(lambda word: json.dumps(word)), st.sampled_from(["3", "true", "1.50", "on", "007"]))


@settings(max_examples=120, deadline=None)
@given(
    st.lists(_scalars, min_size=1, max_size=3, unique=True),
    st.lists(_scalars, min_size=1, max_size=3, unique=True),
    st.integers(1, 3),
    st.sampled_from(["", "settings: {quality: low}\n", "budget: 0.10\n", "limits: {tier: 2}\n", "edition: 1.50\n"]),
)
def test_resolved_is_the_same_manifest(axis: list[str], values: list[str], samples: int, more: str) -> None:
    """What --resolved prints loads again, to the same tasks and the same digest."""
    from runner.errors import ManifestError

    try:
        loaded = job(
            f"prompts: [{{id: p, text: 'cat {{{{ a }}}} {{{{ b }}}}', vars: {{b: [{', '.join(values)}]}}}}]\n"
            f"matrix: {{a: [{', '.join(axis)}], include: [{{size: 1024x1024, a: 9}}]}}\nsamples: {samples}\n{more}"
        )
    except ManifestError:
        return
    again = loads(manifest.resolved(loaded))
    assert manifest.resolved(again) == manifest.resolved(loaded)
    assert again.digest(simulated=False) == loaded.digest(simulated=False)
    assert [(t.key, t.name, t.variant) for t in tasks(again)] == [(t.key, t.name, t.variant) for t in tasks(loaded)]


def test_resolved_fills_in_defaults_and_overrides(design: Path) -> None:
    """It says what holds: the defaults, and what --set changed."""
    loaded = manifest.load(design / "job.yaml", overrides=["matrix.quality=[high]", "budget.usd=3"], catalog=CATALOG)
    text = manifest.resolved(loaded)
    again = manifest.loads(text, source="r", base_dir=design, catalog=CATALOG)
    assert "billed_attempts: 3" in text
    assert "usd: 3\n" in text
    assert again.matrix == loaded.matrix
    assert [t.key for t in tasks(again)] == [t.key for t in tasks(loaded)]


SAME = ["description: x", "budget: 5", "limits: {tier: 2}", "retry: {attempts: 2}", "# a comment", "samples: 1",
        "delivery: batch", "batch: {max_requests: 5, fall_back: online, after: 90m}", "delivery: online",
        "settings: {size: auto}", "provider: openai", "fallback_model: gpt-image-2", "version: 1"]  # fmt: skip
OTHER = ["samples: 2", "edition: a", "settings: {quality: low}", "matrix: {size: [1024x1024]}", "model: gpt-image-2",
         "output: {name: '{{ index }}'}", "vars: {x: 1}"]  # fmt: skip


def test_the_digest_changes_with_what_decides_the_tasks(tmp_path: Path) -> None:
    """Same digest, same tasks; a prompt file counts by its content, wherever it lies."""
    (tmp_path / "p.csv").write_text("text\nA\n")

    def digest(rest: str, file: str = "p.csv", *, simulated: bool = False) -> str:
        return loads(f"name: a\nprompts: [A cat, {{file: {file}}}]\n{rest}\n", base_dir=tmp_path).digest(
            simulated=simulated
        )

    first = digest("")
    assert {digest(rest) for rest in SAME} == {first}
    others = [digest(rest) for rest in OTHER] + [digest("", simulated=True)]
    assert len({first, *others}) == len(OTHER) + 2
    (tmp_path / "q.csv").write_text("text\nA\n")
    assert digest("", "q.csv") == first
    (tmp_path / "p.csv").write_text("text\nB\n")
    assert digest("") != first


def test_overrides() -> None:
    """Paths go through maps, lists and short forms; missing maps are made; the last word wins."""
    text = "name: a\nprompts: A cat\nbudget: 5\nmatrix: {quality: [low, high]}\n"
    loaded = loads(
        text, "matrix.quality=[medium]", "matrix.size=1024x1024", "budget.per=day", "prompts.0.id=cat",
        "prompts.1={text: A dog, id: dog}", "limits.images_per_minute=100", "samples=2", "samples=1", "edition=007",
    )  # fmt: skip
    assert [task.name for task in tasks(loaded)] == ["cat/1024x1024-medium-1.png", "dog/1024x1024-medium-1.png"]
    assert loaded.budget is not None
    assert (str(loaded.budget.usd), loaded.budget.per, loaded.limits.images_per_minute) == ("5", "day", 100.0)
    assert loaded.edition == "007"


def test_an_override_leaves_other_aliases_alone() -> None:
    """Setting one of two places that share an anchor changes that one."""
    text = "name: a\nprompts:\n  - {id: x, text: A, settings: &s {quality: low}}\n  - {id: y, text: B, settings: *s}\n"
    loaded = loads(text, "prompts.1.settings.quality=high")
    assert [task.request.quality for task in tasks(loaded)] == ["low", "high"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("samples", "not KEY=VALUE"),
        ("=3", "not KEY=VALUE"),
        ("matrix..size=3", "not KEY=VALUE"),
        ("limts.tier=1", "did you mean limits?"),
        ("prompts.7=a", "0 to 0, or 1 to add one"),
        ("prompts.x.text=a", "no entry 'x'"),
        ("name.x=3", "is one value"),
        ("samples=[", "not valid"),
        ("samples=!!python/name:os.x 1", "not valid"),
        ("samples=many", "--set samples=many: a whole number"),
        ("limits.teir=1", "--set limits.teir=1: unknown key 'teir'"),
        ("matrix.quality=[hgih]", "did you mean high?"),
    ],
)
def test_a_bad_override_names_itself(word: str, message: str) -> None:
    """The place of what was typed on the command line is the command line."""
    with pytest.raises(InputError) as caught:
        job("", word)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"--set {word}")
