"""Every mistake is told with its exact place, what is wrong, and what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner import manifest
from runner.errors import InputError, ManifestError
from tests.rules.manifest_data import CATALOG, job, loads, marked, refused

TOP = "name: a\nprompts: [A cat]\n"

# (manifest with ^ before the mistake, part of the message, part of the hint)
MISTAKES = {
    "empty": ("^", "is empty", "runner init"),
    "a list": ("^- a\n", "is a list", "name: my-job"),
    "duplicate key": ("name: a\n^name: b\n", "stands twice in one mapping, first in line 1, column 1", "remove"),
    "tab": ("name: a\n^\tprompts: x", "tab", "spaces"),
    "open list": ("name: ^[a", "not closed", "]"),
    "open mapping": ("name: ^{a: 1", "not closed", "}"),
    "open quote": ('name: ^"abc', "not closed", "close it"),
    "stray colon": ("name: a^: b", "':'", "quoted"),
    "forbidden first sign": ("name: ^@a", "'@'", "quote"),
    "second document": ("name: a\n^---\nname: b\n", "second document", "file of its own"),
    "python tag": ("name: ^!!python/object/apply:os.system [x]", "refused", "without a tag"),
    "custom tag": ("name: ^!thing x", "!thing", "without a tag"),
    "int tag": ("name: ^!!int 3", "!!int", "without a tag"),
    "unknown alias": ("name: ^*x", "no anchor", "&x"),
    "recursive alias": ("name: &a [^*a]", "contains itself", "write the value out"),
    "control character": ("name: a^\x07b", "U+0007", "remove"),
    "escaped control character": ('name: ^"a\\0b"', "U+0000", "remove"),
    "escaped surrogate": ('name: ^"a\\ud800b"', "U+D800", "remove"),
    "too deep": ("[" * 64 + "^" + "[" * 40, "more than 64 deep", "no such depth"),
    "unquoted template": ("name: a\nprompts:\n  - ^{{ x }} on y\n", "{{", "quote it"),
    "unquoted template in text": ("name: a\nprompts:\n  - text: ^{{ x }}\n", "{{", "quote it"),
    "no name": ("^prompts: [a]\n", "no `name`", "name: spring-thumbnails"),
    "no prompts": ("^name: a\n", "no `prompts`", "A lighthouse at dusk"),
    "unsafe job name": ("name: ^a b\nprompts: [x]\n", "'a b'", "a-b"),
    "job name that leaves": ("name: ^../x\nprompts: [x]\n", "'../x'", "e.g. x"),
    "device as job name": ("name: ^NUL\nprompts: [x]\n", "'NUL'", "nul-job"),
    "hidden job name": ("name: ^.x\nprompts: [x]\n", "'.x'", "e.g. x"),
    "empty prompts": ("name: a\nprompts: ^[]\n", "no prompts", "at least one"),
    "unknown key": (TOP + "^limts: {tier: 1}\n", "unknown key 'limts'", "did you mean limits?"),
    "unknown key below": (TOP + "limits: {^teir: 1}\n", "unknown key 'teir'", "did you mean tier?"),
    "unknown prompt key": ("name: a\nprompts: [{text: b, ^vrs: {}}]\n", "'vrs'", "did you mean vars?"),
    "unknown file key": ("name: a\nprompts: [{file: b.csv, ^wher: {}}]\n", "'wher'", "did you mean where?"),
    "unknown prompt setting": ("name: a\nprompts: [{text: b, settings: {^sise: x}}]\n", "'sise'", "did you mean size?"),
    "a setting at the top": (TOP + "^quality: high\n", "'quality'", "under `settings` (one value) or `matrix`"),
    "a misspelt setting at the top": (TOP + "^qualty: high\n", "'qualty'", "`quality` goes under"),
    "n": (TOP + "^n: 3\n", "'n'", "`samples`"),
    "notify": (TOP + "^notify: {on: done}\n", "neither a `command` nor a `webhook`", "add `command:"),
    "delivery": (TOP + "delivery: ^bath\n", "'bath'", "did you mean batch? it is one of: online, batch"),
    "unknown batch key": (TOP + "batch: {^max_request: 5}\n", "'max_request'", "did you mean max_requests?"),
    "a batch key at the top": (TOP + "^fall_back: online\n", "'fall_back'", "goes under `batch`"),
    "batch of nothing": (TOP + "batch: {max_requests: ^0}\n", "at least 1", "1 or more"),
    "batch too large": (TOP + "batch: {max_requests: ^50001}\n", "at most 50000", "50000 or less"),
    "fall back": (TOP + "batch: {fall_back: ^onlne}\n", "'onlne'", "did you mean online?"),
    "after what": (TOP + "batch: {fall_back: online, after: ^soon}\n", "not 'soon'", "20h, 90m or 1h30m"),
    "after nothing": (TOP + "batch: {fall_back: online, after: ^0m}\n", "more than 0", "without `after`"),
    "after it is over": (TOP + "batch: {fall_back: online, after: ^24h1s}\n", "at most 24h, not 24h1s", "over by then"),
    "after without falling back": (TOP + "batch: {^after: 20h}\n", "nothing falls back", "fall_back: online"),
    "after, and expressly no falling back": (
        TOP + "batch:\n  fall_back: none\n  ^after: 20h\n",
        "nothing falls back",
        "fall_back: online",
    ),
    "another version": (TOP + "version: ^2\n", "version 2", "version: 1"),
    "samples too few": (TOP + "samples: ^0\n", "at least 1, not '0'", "1 or more"),
    "samples too many": (TOP + "samples: ^1001\n", "at most 1000", "1000 or less"),
    "samples no number": (TOP + "samples: ^many\n", "not 'many'", "digits"),
    "samples underscored": (TOP + "samples: ^1_0\n", "not '1_0'", "digits"),
    "rate of nothing": (TOP + "limits: {images_per_minute: ^0}\n", "more than 0", "above 0"),
    "limits no mapping": (TOP + "limits: ^5\n", "must be a mapping", "key: value"),
    "tier": (TOP + "limits: {tier: ^9}\n", "no tier 9", "1, 2, 3, 4, 5"),
    "budget no amount": (TOP + "budget: ^lots\n", "'lots'", "5.00"),
    "budget below nothing": (TOP + "budget: {usd: ^-1}\n", "at least 0", "0 or more"),
    "budget period": (TOP + "budget: {usd: 1, per: ^dya}\n", "'dya'", "did you mean day?"),
    "provider": (TOP + "provider: ^opnai\n", "no provider 'opnai'", "did you mean openai?"),
    "model": (TOP + "model: ^gpt-image-1-mni\n", "'gpt-image-1-mni'", "did you mean gpt-image-1-mini?"),
    "model in the matrix": (TOP + "matrix: {model: [gpt-image-2, ^gpt-imgae-2]}\n", "gpt-imgae-2", "gpt-image-2?"),
    "fallback": (TOP + "fallback_model: ^gpt-image-9\n", "'gpt-image-9'", "did you mean gpt-image-"),
    "size in the matrix": (TOP + "matrix:\n  size: [1024x1024, ^1024x1204]\n", "'1024x1204'", "1024x1024?"),
    "size as number": (TOP + "settings: {size: ^1024}\n", "no size '1024'", "1024x1024"),
    "quality in a zip": (
        TOP + "matrix: {zip: [{size: [auto, 1024x1024], quality: [low, ^hgih]}]}\n",
        "'hgih'",
        "did you mean high?",
    ),
    "size in an include": (TOP + "matrix: {size: [auto], include: [{size: ^1x1}]}\n", "'1x1'", "sizes of"),
    "quality of a prompt": ("name: a\nprompts: [{text: b, settings: {quality: ^hgh}}]\n", "'hgh'", "high?"),
    "background": (TOP + "settings: {background: ^transparant}\n", "'transparant'", "transparent?"),
    "moderation": (TOP + "settings: {moderation: ^none}\n", "'none'", "auto, low"),
    "jpg": (TOP + "settings: {output_format: ^jpg}\n", "'jpg'", "jpeg"),
    "transparent jpeg": (
        TOP + "settings: {background: ^transparent, output_format: jpeg}\n",
        "cannot be saved as jpeg",
        "png or webp",
    ),
    "compressed png": (TOP + "settings: {output_compression: ^50}\n", "for jpeg and webp", "output_format: webp"),
    "compression": (TOP + "settings: {output_compression: ^101}\n", "at most 100", "100 or less"),
    "compression axis": (
        TOP + "settings: {output_format: webp}\nmatrix: {output_compression: [50, ^101]}\n",
        "101",
        "100",
    ),
    "fallback lacks a quality": (
        TOP + "model: gpt-image-2.6-flare\nfallback_model: gpt-image-2\nmatrix: {quality: [low, ^xhigh]}\n",
        "for fallback_model: gpt-image-2",
        "both models",
    ),
    "empty axis": (TOP + "matrix: {size: ^[]}\n", "no values", "at least one"),
    "value twice": (TOP + "matrix: {quality: [low, ^low]}\n", "twice", "samples"),
    "mapping in an axis": (TOP + "matrix: {size: [^{a: b}]}\n", "not a mapping", "quoted"),
    "reserved axis": (TOP + "matrix: {^sample: [1, 2]}\n", "'sample' is taken", "another name"),
    "axis no identifier": (TOP + "matrix: {^a-b: [1, 2]}\n", "'a-b'", "letters"),
    "exclude no axis": (TOP + "matrix: {size: [auto], exclude: [{^siez: auto}]}\n", "no axis", "did you mean size?"),
    "everything excluded": (TOP + "matrix: {size: [auto], exclude: ^[{size: auto}]}\n", "no combination", "remove"),
    "list in an include": (TOP + "matrix: {size: [auto], include: [{quality: ^[low]}]}\n", "one value", "one entry"),
    "zip lengths": (TOP + "matrix: {zip: [{size: [auto, 1024x1024], ^quality: [low]}]}\n", "1 value,", "equally many"),
    "axis twice": (TOP + "matrix: {size: [auto], zip: [{^size: [auto]}]}\n", "twice", "one zip group"),
    "unused axis": (TOP + "matrix: {^style: [a, b]}\n", "changes nothing in the prompt in line 2", "samples"),
    "misspelt axis": (TOP + "matrix: {^qualitty: [low, high]}\n", "changes nothing", "did you mean quality?"),
    "unused include": (TOP + "matrix: {include: [{size: auto}, {size: auto, ^tone: warm}]}\n", "'tone'", "{{ tone }}"),
    "unused variable": ("name: a\nprompts: [{text: b, vars: {^x: [1, 2]}}]\n", "not used", "{{ x }}"),
    "variable and axis": (
        "name: a\nmatrix: {x: [1, 2]}\nprompts: [{text: 'b {{ x }}', vars: {^x: 1}}]\n",
        "axis of the matrix",
        "rename",
    ),
    "reserved variable": (TOP + "vars: {^size: big}\n", "'size' is taken", "settings"),
    "list for the job": (TOP + "vars: {x: ^[1, 2]}\n", "one value", "matrix"),
    "variable without value": (TOP + "vars: {x:^ }\n", "missing", '""'),
    "undefined": (
        "name: a\nprompts: ['A {{ ^styl }} cat']\nmatrix: {style: [a, b]}\n",
        "'styl'",
        "did you mean style?",
    ),
    "undefined in a block": (
        "name: a\nprompts:\n  - |\n    A {{ x }}\n    and {{ ^yy }}\nvars: {x: 1, y: 2}\n",
        "'yy'",
        "known here",
    ),
    "undefined in an expression": (
        "name: a\nprompts: ['{{ ^styl|upper }} cat']\nvars: {style: a}\n",
        "'styl'",
        "style?",
    ),
    "undefined in the name": (TOP + "output: {name: 'x-{{ ^sampel }}'}\n", "'sampel'", "did you mean sample?"),
    "template syntax": ("name: a\nprompts: [^'A {{ x cat']\nvars: {x: 1}\n", "not valid", "{{ name }}"),
    "unknown filter": ("name: a\nprompts: ['A {{ x | ^uper }}']\nvars: {x: a}\n", "no filter 'uper'", "upper?"),
    "unknown test": ("name: a\nprompts: ['A {{ 1 if x is ^evn }}']\nvars: {x: 1}\n", "no test 'evn'", "even?"),
    "empty prompt": ("name: a\nprompts: [{text: ^''}]\n", "is empty", "write"),
    "prompt empty once rendered": ("name: a\nprompts: [^'{{ x }}']\nvars: {x: ''}\n", "is empty", "write"),
    "prompt too long": (f"name: a\nprompts: [^{'x' * 32_001}]\n", "32,001 characters", "shorten"),
    "colon in a prompt": ("name: a\nprompts:\n  - ^A sign: open\n", "no `text`", "quote it"),
    "id twice": ("name: a\nprompts: [{id: x, text: a}, {id: ^x, text: b}]\n", "'x' (first in line 2)", "its own"),
    "absolute name": (TOP + "output: {name: ^/x}\n", "absolute", "relative"),
    "name that leaves": (TOP + "output: {name: ^../x}\n", "'..'", "relative"),
    "name that leaves later": (TOP + "output: {name: ^'a/../../{{ sample }}'}\n", "'..'", "relative"),
    "name with an empty part": (TOP + "output: {name: ^'a//{{ sample }}'}\n", "empty part", "relative"),
    "hidden name": (TOP + "output: {name: ^'.a/{{ sample }}'}\n", "begins with '.'", "relative"),
    "name with backslash": (TOP + "output: {name: ^'a\\{{ sample }}'}\n", "character", "relative"),
    "device name": (TOP + "output: {name: ^'aux/{{ sample }}'}\n", "Windows", "relative"),
    "folder ends in a dot": (TOP + "output: {name: ^'a./{{ sample }}'}\n", "ends in '.'", "relative"),
    "long part": (TOP + f"output: {{name: ^{'x' * 201}}}\n", "200 bytes", "relative"),
    "long path": (TOP + f"output: {{name: ^{'x/' * 600}x}}\n", "1000 bytes", "relative"),
    "samples with one name": (TOP + "samples: 2\noutput: {name: ^x}\n", "2 samples", "{{ sample }}"),
    "combinations with one name": (
        TOP + "matrix: {size: [auto, 1024x1024]}\noutput: {name: ^'{{ sample }}'}\n",
        "differ in 'size'",
        "{{ size }}",
    ),
    "no such file": ("name: a\nprompts: [{file: ^x.csv}]\n", "no file", "relative to the manifest"),
    "ending": ("name: a\nprompts: [{file: ^x.xlsx}]\n", "format", "format: csv"),
}


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_at_its_place(text: str, message: str, hint: str) -> None:
    """Line and column are those of the offending word; the message says what, the hint what to do."""
    clean, place = marked(text)
    error = refused(clean)
    assert error.place == f"job.yaml:{place}"
    assert message in error.message
    assert hint in (error.hint or "")


def test_several_mistakes_are_told_together_in_file_order() -> None:
    """The first in the file leads; the others follow with their places, so that one look mends them all."""
    error = refused("name: a\nprompts: [A cat]\nmatrix:\n  quality: [hgih]\n  size: [1x1]\nmodel: gpt-image-2\n")
    assert error.place == "job.yaml:4:13"
    assert "also job.yaml:5:10: gpt-image-2 makes no size '1x1'" in str(error)


def test_many_mistakes_are_cut_short() -> None:
    """At most ten are told; the rest are counted."""
    error = refused("name: a\nprompts: [A cat]\n" + "".join(f"zz{index}: 1\n" for index in range(30)))
    assert str(error).count("also ") == 9
    assert "and 20 more" in str(error)


@pytest.mark.parametrize(
    ("raw", "place", "what"),
    [
        (b"name: a\nprompts: [caf\xe9]\n", "2:14", "0xe9"),
        ("name: a".encode("utf-16"), "1:1", "UTF-16"),
    ],
)
def test_bytes_that_are_not_utf8(tmp_path: Path, raw: bytes, place: str, what: str) -> None:
    """The place is that of the first bad byte, counted in characters."""
    path = tmp_path / "job.yaml"
    path.write_bytes(raw)
    with pytest.raises(ManifestError) as caught:
        manifest.load(path, catalog=CATALOG)
    assert caught.value.place == f"{path}:{place}"
    assert what in caught.value.message


def test_a_bom_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one; columns do not count it."""
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a\nprompts: [A cat]\n")
    assert manifest.load(path, catalog=CATALOG).name == "a"
    path.write_bytes(b"\xef\xbb\xbfnam: a\nprompts: [A cat]\n")
    with pytest.raises(ManifestError) as caught:
        manifest.load(path, catalog=CATALOG)
    assert (caught.value.line, caught.value.column) == (1, 1)


def test_a_manifest_that_is_not_there_suggests_its_neighbour(tmp_path: Path) -> None:
    """A misspelt path names the file that was probably meant."""
    (tmp_path / "nightly.yaml").write_text("name: a\n")
    with pytest.raises(InputError, match=r"nightly\.yaml"):
        manifest.load(tmp_path / "nigthly.yaml", catalog=CATALOG)
    with pytest.raises(InputError, match="cannot be read"):
        manifest.load(tmp_path, catalog=CATALOG)


def test_a_huge_manifest_is_refused_unread(tmp_path: Path) -> None:
    """The bound on the file's size comes before any parsing."""
    path = tmp_path / "job.yaml"
    path.write_bytes(b"#" * (17 * 1024 * 1024))
    with pytest.raises(ManifestError, match="16 MiB"):
        manifest.load(path, catalog=CATALOG)


def test_excluded_combinations_are_not_judged() -> None:
    """A combination that is never asked for may be impossible."""
    job(
        "matrix: {background: [opaque, transparent], output_format: [png, jpeg], "
        "exclude: [{background: transparent, output_format: jpeg}]}"
    )


def test_origins_of_keys_and_models() -> None:
    """Other parts point into the manifest: at a key, an entry, or the nearest thing above what is not there."""
    text = "name: a\nprompts: [A cat]\nmodel: gpt-image-2\nmatrix:\n  size: [auto, 1024x1024]\n"
    loaded = loads(text, "samples=2")
    places = {
        (): (1, 1),
        ("name",): (1, 1),
        ("matrix", "size"): (5, 3),
        ("matrix", "size", 1): (5, 16),
        ("matrix", "quality"): (4, 1),
        ("budget", "usd"): (1, 1),
    }
    for path, (line, column) in places.items():
        origin = loaded.origin_of(*path)
        assert (origin.source, origin.line, origin.column) == ("job.yaml", line, column)
    assert loaded.origin_of("samples").source == "--set samples=2"
    assert loaded.models == ("gpt-image-2",)
    assert loaded.model_origin("gpt-image-2").line == 3


def test_models_are_all_that_tasks_can_have() -> None:
    """The matrix's and a prompt's count; the job's only where nothing overrides it, and a fallback never."""
    loaded = loads(
        "name: a\nmodel: gpt-image-1-mini\nfallback_model: gpt-image-2\n"
        "prompts: [A cat, {text: A dog, settings: {model: gpt-image-1.5}}]\n"
    )
    assert loaded.models == ("gpt-image-1-mini", "gpt-image-1.5")
    assert loaded.model_origin("gpt-image-1.5").line == 4
    assert loaded.model_origin("gpt-image-2").line == 3
    both = job("matrix: {model: [gpt-image-2, gpt-image-1.5]}")
    assert both.models == ("gpt-image-2", "gpt-image-1.5")
