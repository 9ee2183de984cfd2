"""The reference is true: its examples load, it knows every key, and the schema for editors is the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from runner import manifest
from runner.errors import ManifestError
from runner.manifest import editing, notifying, pictures, rendering, sandbox, schema
from tests.rules.manifest_data import CATALOG, draw, job, tasks

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = DOCS / "manifest.md"
BLOCKS = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text("utf-8"), re.DOTALL)
ERRORS = re.findall(r"```yaml refused\n(.*?)```\n+```text\n(.*?)```", REFERENCE.read_text("utf-8"), re.DOTALL)
FILES = {
    "prompts.csv": "id,title,category,colour\nbun,A bun,food,red\ncar,A car,cars,blue\n",
    "prompts.txt": "A lighthouse\nA harbour\n",
    "products.csv": "sku,wish,photo,area\nm,Blue glaze,assets/mug.png,masks/mug-bw.png\nc,Red glaze,assets/cup.png,\n",
    "products.jsonl": '{"sku": "a-1", "name": "a red mug"}\n{"sku": "a-2", "name": "a blue mug"}\n',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files that the reference's examples name."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    for name in ("assets/mug.png", "assets/cup.png", "assets/products/a.png", "style/a.png"):
        draw(tmp_path / name)
    draw(tmp_path / "masks/mug.png", mode="RGBA")
    draw(tmp_path / "masks/mug-bw.png", shade=0, mode="L")
    draw(tmp_path / "masks/half.png", (32, 24), mode="RGBA")
    return tmp_path


class _Editor(yaml.SafeLoader):
    """Reads `on` as the text that it is in YAML 1.2, which editors follow."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared by PyYAML, as it is
        first: [(tag, words) for tag, words in known if first not in "oO" or tag != "tag:yaml.org,2002:bool"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def whole(block: str) -> str:
    """An example as a manifest of its own: most leave out the name or the prompts."""
    if not re.search(r"^name:", block, re.MULTILINE):
        block = "name: example\n" + block
    return block if re.search(r"^prompts:", block, re.MULTILINE) else block + "prompts: [A cat]\n"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_loads(block: str, folder: Path) -> None:
    """Each is accepted, expands, and suits the schema for editors."""
    loaded = manifest.loads(whole(block), source="job.yaml", base_dir=folder, catalog=CATALOG)
    assert tasks(loaded)
    jsonschema.validate(yaml.load(whole(block), _Editor), manifest.json_schema())


@pytest.mark.parametrize(("block", "message"), ERRORS)
def test_every_shown_error_is_what_is_said(block: str, message: str, folder: Path) -> None:
    """The reference quotes errors as they are."""
    with pytest.raises(ManifestError) as caught:
        manifest.loads(block, source="jobs/spring.yaml", base_dir=folder, catalog=CATALOG)
    assert str(caught.value) == message.rstrip("\n")


def test_every_key_is_documented() -> None:
    """No key, filter or method of templates is missing from the reference."""
    text = REFERENCE.read_text("utf-8")
    parts: list[type[BaseModel]] = [schema.Manifest, schema.Settings, schema.PromptSettings, schema.TextPrompt]
    parts += [schema.FilePrompt, schema.Limits, schema.Budget, schema.Retry, schema.Timeouts, schema.Output]
    parts += [schema.Batch, editing.EditSettings, editing.PrepareSettings]
    parts += [rendering.RenditionSettings, notifying.Notify]
    keys = {key for part in parts for key in part.model_fields}
    words = {*keys, "zip", "exclude", "include", *sandbox._FILTERS, *sandbox._TEXT_METHODS, *sandbox._TESTS}
    words |= {*notifying.ENDINGS, *editing._MASK_KEYS, *editing.MASK_MODES, *pictures.PARTS}
    assert [word for word in sorted(words) if not re.search(rf"`[^`\n]*\b{word}\b[^`\n]*`", text)] == []


def test_the_committed_schema_is_the_code_s() -> None:
    """Regenerate with: runner schema > docs/manifest.schema.json."""
    written = (DOCS / "manifest.schema.json").read_text("utf-8")
    assert written == json.dumps(manifest.json_schema(), indent=2) + "\n"


def test_the_schema_is_one() -> None:
    """It is valid for draft 2020-12, and every key has a description or a shape of its own."""
    jsonschema.Draft202012Validator.check_schema(manifest.json_schema())


@pytest.mark.parametrize(
    "rest",
    [
        "limts: {tier: 1}",
        "samples: 0",
        "prompts: []",
        "prompts: [{txt: a}]",
        "budget: {per: day}",
        "delivery: pigeon",
        "batch: {max_request: 5}",
        "batch: {max_requests: 50001}",
        "batch: {fall_back: batch}",
        "batch: {after: 86401, fall_back: online}",
        "matrix: {a-b: [1]}",
        "matrix: {size: []}",
        "settings: {sise: auto}",
        "edit: {imges: [a.png]}",
        "edit: {images: a.png, mask: {box: [1, 2]}}",
        "edit: {images: a.png, mask: {file: a.png, box: [0, 0, 1, 1]}}",
        "edit: {images: a.png, mask_mode: white}",
        "edit: {images: a.png, feather: 257}",
        "edit: {images: a.png, prepare: {format: gif}}",
        "matrix: {image: [{file: a.png}]}",
        "matrix: {mask: [{bx: 1}]}",
        "renditions: {name: x, width: 1}",
        "renditions: [{width: 1}]",
        "renditions: [{name: x, width: 0}]",
        "renditions: [{name: x, width: 1, fit: crop}]",
        "renditions: [{name: a/b, width: 1}]",
        "notify: {webhok: x}",
        "notify: {command: sh}",
        "version: 2",
    ],
)
def test_editors_see_the_same_mistakes(rest: str) -> None:
    """What the schema refuses, the loader refuses too."""
    data = yaml.safe_load(("" if "prompts" in rest else "prompts: [A cat]\n") + f"name: a\n{rest}\n")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, manifest.json_schema())
    with pytest.raises(ManifestError):
        job(rest)
