"""Whatever a manifest holds, it is refused in words that have a place, or its tasks can be made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner import manifest
from runner.errors import InputError, ManifestError
from tests.fuzz.fuzz_support import HOSTILE_TEXTS, disturbed, mutated, scalars, search, texts, watched
from tests.fuzz.manifest_support import CATALOG, FILES, RICH, hold, write_files

JOBS = Path(__file__).parents[2] / "jobs"
ORIGINALS = [
    *(path.read_bytes() for path in sorted(JOBS.glob("*.yaml"))),
    yaml.safe_dump(RICH, sort_keys=False, allow_unicode=True).encode(),
    json.dumps(RICH, indent=1).encode(),
    b"base: &b {quality: low}\nname: a\nprompts:\n  - &p A cat\n  - {text: 'A {{ x }}', vars: {x: [1, 2]}}\n"
    b"matrix: {size: [auto]}\n",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("manifests")
    write_files(made)
    (made / "articles.csv").write_bytes((JOBS / "articles.csv").read_bytes())
    shutil.copytree(JOBS / "assets", made / "assets")
    return made


def write(folder: Path, content: bytes) -> Path:
    path = folder / "job.yaml"
    path.write_bytes(content)
    return path


def test_the_originals_are_whole(folder: Path) -> None:
    """What is mutated is valid before, and `RICH` has every key that the schema knows."""
    for content in ORIGINALS[:-1]:
        assert isinstance(hold(write(folder, content)), list)
    schema: Any = manifest.json_schema()
    assert set(schema["properties"]) == set(RICH)
    written = {key for prompt in RICH["prompts"] if isinstance(prompt, dict) for key in prompt}
    for name in ("FilePrompt", "TextPrompt"):
        assert set(schema["$defs"][name]["properties"]) <= written
    for name in ("settings", "output", "limits", "budget", "retry", "timeouts", "batch"):
        assert set(schema["$defs"][name.title()]["properties"]) == set(RICH[name])
    for name, own in (("EditSettings", RICH["edit"]), ("PrepareSettings", RICH["edit"]["prepare"])):
        assert set(schema["$defs"][name]["properties"]) == set(own)


@search(200)
@given(content=mutated(ORIGINALS))
def test_mutated_bytes(folder: Path, content: bytes) -> None:
    """Flipped bits, cuts, repeats, splices, odd pieces, other encodings."""
    with watched():
        hold(write(folder, content))


@search(150)
@given(made=disturbed(RICH))
def test_a_disturbed_structure(folder: Path, made: Any) -> None:
    """Values of every kind at every key."""
    content = json.dumps(made, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with watched():
        hold(write(folder, content))


def quoted(text: str) -> str:
    """Text as YAML that says exactly this, with an escape where a character cannot stand by itself."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'


@search(200)
@given(
    prompt=texts,
    prompt_id=texts,
    value=scalars,
    name=st.lists(
        st.sampled_from(
            ["{{ prompt_id }}", "{{ x }}", "{{ x | lower }}", "{{ sample }}", "{{ key8 }}", "/", "-", ".", "..", "a"]
        )
        | texts,
        max_size=5,
    ),
)
def test_hostile_names(folder: Path, prompt: str, prompt_id: str, value: Any, name: list[str]) -> None:
    """Ids, variables and templates of names made of what file systems, shells and terminals stumble over."""
    listed = quoted(value) if isinstance(value, str) else json.dumps(value)
    content = (
        f"name: a\nprompts:\n  - {{id: {quoted(prompt_id)}, text: {quoted(prompt + ' {{ x }}')}}}\n  - B {{{{ x }}}}\n"
        f"matrix: {{x: [{listed}, other]}}\noutput: {{name: {quoted(''.join(name) + '{{ x }}{{ prompt_id }}')}}}\n"
    )
    with watched():
        hold(write(folder, content.encode("utf-8", "surrogatepass")))


@search(80)
@given(
    words=st.lists(
        st.builds(
            "{}{}{}".format,
            st.sampled_from(
                [
                    "name",
                    "samples",
                    "prompts",
                    "prompts.0",
                    "prompts.0.text",
                    "prompts.9",
                    "prompts.1.vars.x",
                    "matrix",
                    "matrix.size",
                    "matrix.x",
                    "budget",
                    "budget.usd",
                    "limits.tier",
                    "vars.style",
                    "settings",
                    "",
                    ".",
                    "x.y",
                    "prompts.3.file",
                    "output.name",
                    "matrix.exclude.0",
                    "matrix.zip",
                    "timeouts.total_s",
                ]
            ),
            st.sampled_from(["=", "=", "=", "", "=="]),
            texts | scalars.map(str) | st.sampled_from(["[", "{a: b}", "[1, 2]", "*a", "&a b", "'", "[[[[", "{{ x }}"]),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_overrides(folder: Path, words: list[str]) -> None:
    """`--set` takes whatever a shell hands over."""
    with watched():
        try:
            hold(write(folder, ORIGINALS[2]), *words)
        except InputError as error:
            assert error.message.startswith("--set ")
            assert error.hint


def template(text: str, rest: str = "") -> str:
    return f"name: a\nprompts: [{json.dumps(text)}]\n{rest}"


def laughs(depth: int, width: int) -> str:
    lines = ["name: a", "prompts: [A cat]", "description: &a0 lol"]
    lines += [f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, depth)]
    return "\n".join(lines)


HUNDRED = "[" + ", ".join(map(str, range(100))) + "]"
BOMBS = {
    "billion laughs": laughs(12, 10),
    "billion laughs in mappings": "name: a\na0: &a0 {x: y}\n"
    + "\n".join(f"a{n}: &a{n} {{p: *a{n - 1}, q: *a{n - 1}}}" for n in range(1, 60)),
    "deep": "name: a\nprompts: " + "[" * 50_000,
    "deep in blocks": "name: a\nprompts:\n" + "\n".join(" " * n + "-" for n in range(1, 2000)),
    "text of a list": template("{{ (['a' * 65536] * 65536) | string | length }}"),
    "text of a list, concatenated": template("{{ (['a' * 65536] * 65536 ~ '') | length }}"),
    "a sorted list": template("{{ (['A' * 65536] * 65536) | sort | length }}"),
    "a list of its own values": template("{{ (['A' * 65536] * 65536) | unique | list | length }}"),
    "lists of lists": template("{{ [[1] * 60000] * 60000 == [[2] * 60000] * 60000 }}"),
    "many long texts": template("{{ [" + ", ".join(["'a' * 65536"] * 4000) + "] | length }}"),
    "a long concatenation": template("{{ (" + " ~ ".join(["('a' * 65536)"] * 4000) + ") | length }}"),
    "a loop that says nothing": template(
        "{% for i in [0] * 65536 %}" + "{% if ('a' * 65536) | upper == 'x' %}{% endif %}" * 900 + "{% endfor %}x"
    ),
    "titles": template("x".join(["{% if ('a ' * 32768) | title == 'x' %}{% endif %}"] * 1000)),
    "rounding to a billion digits": template("{{ 1.5 | round(999999999, 'ceil') }}"),
    "rounding to minus a lot": template("{{ 5 | round(-99999999999999999999) }}"),
    "a number too large": template("{{ 1e999 }}"),
    "openings": template("{{ '}}" + "{%" * 30_000 + "' }} {{ nope }}"),
    "openings in a prompt": template("{{ '}}" + "{%" * 15_500 + "' }}"),
    "a product of nothing": "name: a\nprompts: [A]\nmatrix:\n"
    + "".join(f"  a{n}: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" for n in range(30))
    + "  b: [1]\n  exclude: [{b: 1}]\n",
    "excluded one by one": "name: a\nprompts: ['{{ a }} {{ b }}']\n"
    f"matrix:\n  a: {HUNDRED}\n  b: {HUNDRED}\n  exclude:\n"
    + "".join(f"   - {{a: {n}, b: 7}}\n" for n in range(100, 8_100)),
    "included one by one": f"name: a\nprompts: ['{{{{ a }}}}']\nmatrix:\n  a: {HUNDRED}\n  b: {HUNDRED}\n  include:\n"
    + "".join(f"   - {{c: {n}}}\n" for n in range(9000)),
    "a hundred million prompts": "name: a\nprompts: [{text: '{{ p }} {{ q }} {{ a }} {{ b }}', "
    f"vars: {{p: {HUNDRED}, q: {HUNDRED}}}}}]\nmatrix: {{a: {HUNDRED}, b: {HUNDRED}}}\n",
    "a million slow prompts": "name: a\nprompts: [{text: \"{{ p }}{{ ('a' * 65000) | upper | length }}\", "
    f"vars: {{p: {HUNDRED}, q: {HUNDRED}}}}}]\nmatrix: {{a: {HUNDRED}}}\n",
    "an axis of many": "name: a\nprompts: ['{{ a }}']\nmatrix:\n  a: [" + ", ".join(map(str, range(30_000))) + "]\n",
    "many mistakes": "name: a\nprompts:\n" + "".join(f"  - 'a {n} {{{{ nope }}}}'\n" for n in range(5000)),
    "many aliases of a mistake": "name: a\nprompts:\n  - &a {text: 'a {{ x }}'}\n" + "  - *a\n" * 10_000,
    "digits in a directive": "%YAML 1." + "9" * 5000 + "\n---\nname: a\n",
    "no such character": 'name: a\nprompts: ["\\UFFFFFFFF"]\n',
    "beyond the last character": 'name: a\nprompts: ["\\U00110000"]\n',
    "half a character": template("a {{ '\\ud800' }} b"),
    "an escape sequence": template("a {{ '\\x1b[31m' }} b"),
    "python": "name: a\nprompts: !!python/object/apply:os.system [id]\n",
    "a second document": "name: a\nprompts: [A]\n---\nname: b\n",
}
FINE = {"excluded one by one", "openings in a prompt"}


_CHILD = """
import json, resource, sys
from pathlib import Path
from tests.fuzz.fuzz_support import watched
from tests.fuzz.manifest_support import hold

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
hold(Path(sys.argv[1]) / "warm.yaml")
for path in sys.argv[2:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with watched():
        found = hold(Path(path))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps([None if isinstance(found, list) else found.message, peak * 1024]), flush=True)
"""


@pytest.fixture(scope="module")
def exploded(folder: Path) -> dict[str, tuple[str | None, int]]:
    """What became of each bomb, and how many bytes it took, in a process that has to live through all of them."""
    (folder / "warm.yaml").write_bytes(ORIGINALS[2])
    paths = [folder / f"bomb{number}.yaml" for number in range(len(BOMBS))]
    for path, text in zip(paths, BOMBS.values(), strict=True):
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder), *map(str, paths)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(BOMBS), f"it died of {list(BOMBS)[len(lines)]!r}: {done.stderr}"
    return {what: (message, took) for what, (message, took) in zip(BOMBS, lines, strict=True)}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb(exploded: dict[str, tuple[str | None, int]], what: str) -> None:
    """A few kilobytes (or a megabyte, where each line asks for little) take neither the memory nor the day."""
    message, took_bytes = exploded[what]
    assert (message is None) == (what in FINE), message
    assert took_bytes < 100_000_000


def test_a_manifest_that_is_no_file(folder: Path) -> None:
    """A pipe is not waited for; a folder and a device are refused."""
    pipe = folder / "pipe.yaml"
    os.mkfifo(pipe)
    loop = folder / "loop.yaml"
    loop.symlink_to(loop)
    for path in (pipe, loop, folder, Path("/dev/zero"), folder / ("n" * 300), folder / "a\0b"):
        with watched(), pytest.raises(InputError) as caught:
            manifest.load(path, catalog=CATALOG)
        assert not isinstance(caught.value, ManifestError)
        assert caught.value.hint


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_a_jobs_name(folder: Path, text: str) -> None:
    """A job's name is a folder's name: it is refused, or it is one part of a path that leads nowhere else."""
    content = f"name: {quoted(text)}\nprompts: [A cat]\n".encode("utf-8", "surrogatepass")
    found = hold(write(folder, content))
    if isinstance(found, list):
        name = manifest.load(folder / "job.yaml", catalog=CATALOG).name
        assert name == text
        assert name.isascii() and name.strip(".") and not set(name) & set('/\\:*?"<>|')


def test_the_files_of_the_rich_manifest_are_used() -> None:
    """A fuzzed manifest reads prompt files of every format."""
    assert {prompt["file"] for prompt in RICH["prompts"] if isinstance(prompt, dict) and "file" in prompt} == set(FILES)
