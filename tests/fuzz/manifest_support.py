"""A manifest that uses every key, with its prompt files, and what must hold of whatever becomes of one."""

from __future__ import annotations

import datetime as dt
import itertools
import os
import unicodedata
from pathlib import Path
from typing import Any

from runner import catalog, manifest, planner
from runner.errors import InputError, ManifestError, RunnerError, StopRun
from runner.ledger import Scratch
from runner.rules.models import choose_models
from runner.tasks import Task
from tests.rules.manifest_data import draw

CATALOG = catalog.load()
MOST_TASKS = 200
TODAY = dt.date(2026, 11, 22)

RICH: dict[str, Any] = {
    "version": 1,
    "name": "rich",
    "description": "Every key of the format",
    "provider": "openai",
    "model": "gpt-image-2",
    "fallback_model": "gpt-image-2.6-flare",
    "edition": "first",
    "vars": {"style": "flat", "count": 3, "bright": True, "ratio": "1.50"},
    "prompts": [
        "A plain text, {{ tone }}",
        {"id": "lamp", "text": "{{ count }} lamps, {{ style }}, {{ tone }}", "settings": {"quality": "high"}},
        {
            "text": "{% for i in range(count) %}{{ mood | upper }}{{ i }}{% endfor %}"
            "{{ ' bright' if bright }} {{ tone }}",
            "vars": {"mood": ["calm", "wild"], "place": "sea"},
            "settings": {"model": "gpt-image-2.6-flare", "background": "opaque"},
            "edit": {"references": None, "mask": {"polygon": [[0, 0], [9, 0], [4, 9]]}},
        },
        {
            "file": "rows.csv",
            "format": "csv",
            "text": "title",
            "id": "slug",
            "where": {"kind": ["a", "b"]},
            "offset": 1,
            "limit": 2,
            "template": "{{ text }}, {{ row['Alt text'] }}, {{ style }}, {{ tone }}",
            "vars": {"season": "winter"},
            "image": "photo",
            "mask": "area",
            "settings": {"output_format": "png", "output_compression": None},
        },
        {"file": "rows.jsonl", "id": "id", "template": "{{ text }}: {{ tone }}"},
        {"file": "rows.tsv", "text": "prompt", "template": "{{ text }} {{ tone }}"},
        {"file": "rows.txt", "template": "{{ text }} in {{ tone }}"},
    ],
    "matrix": {
        "tone": ["warm", "cold"],
        "size": ["1024x1024"],
        "zip": [{"quality": ["low", "medium"], "label": ["l", "m"]}],
        "exclude": [{"tone": "cold", "quality": "medium"}],
        "include": [{"tone": "neon", "size": "1536x1024", "quality": "low", "label": "n"}],
    },
    "renditions": [
        {"name": "card", "width": 320, "height": 180, "fit": "cover", "gravity": "entropy", "quality": 70},
        {"name": "mail", "width": 600, "format": "jpeg", "background": "#ffffff"},
    ],
    "notify": {
        "on": ["done", "failed", "budget"],
        "command": ["true"],
        "webhook": "https://hooks.example/${NAME}",
        "timeout": "20s",
    },
    "promotion": {"job": "origin", "origins": {"lamp": ["0" * 64]}},
    "samples": 2,
    "settings": {
        "size": "auto",
        "quality": "auto",
        "background": "auto",
        "output_format": "webp",
        "output_compression": 80,
        "moderation": "auto",
    },
    "edit": {
        "images": ["pic?.png", "mask.png"],
        "references": "pic1.png",
        "mask": {"file": "mask.png", "mask_mode": "alpha", "resize": True, "feather": 3},
        "mask_mode": "white_is_edit",
        "resize": False,
        "feather": 2,
        "prepare": {"max_side": 16, "format": "webp", "quality": 80},
        "composite": True,
        "input_fidelity": None,
    },
    "output": {
        "dir": "s3://bucket/prefix",
        "name": "{{ prompt_id }}/{{ tone }}-{{ size }}-{{ quality }}-{{ label }}-{{ sample }}",
    },
    "limits": {
        "concurrency": 4,
        "images_per_minute": 50,
        "requests_per_minute": 60.5,
        "tokens_per_minute": 1000000,
        "tier": 3,
    },
    "budget": {"usd": 1.5, "per": "day"},
    "retry": {"attempts": 2, "billed_attempts": 1, "rate_limited_attempts": 9, "base_s": 0.5, "max_s": 2},
    "timeouts": {"connect_s": 5, "first_byte_s": 60, "stall_s": 30, "total_s": 90},
    "delivery": "batch",
    "batch": {"max_requests": 500, "fall_back": "online", "after": "20h"},
}
FILES = {
    "rows.csv": b'slug,title,Alt text,kind,photo,area\none,First,"alt, 1",a,,\ntwo,Second,"alt ""2""",b,pic1.png,\n'
    b'three,"Thi\nrd",x,a,pic1.png|pic2.png,"{""box"": [1, 1, 9, 9]}"\n',
    "rows.jsonl": b'{"id": "j1", "text": "A tree", "n": 1.50}\n\n'
    b'{"id": "j2", "text": "A caf\\u00e9", "more": {"a": [1]}}\n',
    "rows.tsv": b'prompt\tkind\nA boat\ta\n"A quoted\tsail"\tb\n',
    "rows.txt": "A mill\n\nA bridge — at night\n".encode(),
}


def write_files(folder: Path) -> None:
    """The prompt files of `RICH`, and its pictures."""
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    for name in ("pic1.png", "pic2.png"):
        draw(folder / name, (24, 16))
    draw(folder / "mask.png", (24, 24), mode="RGBA")


def hold(path: Path, *overrides: str, most: int = MOST_TASKS) -> list[Task] | ManifestError:
    """Load the manifest at `path` and expand it; every law that holds whatever is in it.

    It is either refused, with words, a place and what to do next, or its tasks have names and prompts that can be used.
    """
    try:
        loaded = manifest.load(path, overrides=overrides, catalog=CATALOG)
        tasks = list(itertools.islice(manifest.expand(loaded, simulated=False), most))
    except ManifestError as error:
        assert error.message
        assert error.hint
        if not error.source.startswith("--set"):
            assert error.line is not None, error
            assert 1 <= error.line <= Path(error.source).read_bytes().count(b"\n") * 4 + 10_000
        str(error).encode("utf-8", "surrogatepass")
        return error
    _usable(tasks, path.parent / "images")
    manifest.resolved(loaded).encode()
    assert len(loaded.digest(simulated=False)) == 64
    refused = _plan(loaded, tasks)
    return refused or tasks


def _usable(tasks: list[Task], images: Path) -> None:
    root = str(images) + os.sep
    for task in tasks:
        assert os.path.normpath(images / task.name).startswith(root)
        assert os.path.normpath(task.name) == task.name, task.name
        for part in task.name.split("/"):
            assert 0 < len(part.encode()) <= 255
            assert not any(ord(char) < 32 or char in '\x7f\\:*?"<>|' for char in part), task.name
            assert part.strip(". ") and not part.endswith((".", " "))
        prompt = task.request.prompt
        assert prompt.strip()
        assert len(prompt) <= 32_000
        assert not any(ord(char) < 32 and char not in "\t\n\r" for char in prompt)
        prompt.encode()
        task.prompt_id.encode()


def _plan(loaded: manifest.Manifest, tasks: list[Task]) -> ManifestError | None:
    """What needs every task at once; two names are never one, on any file system."""
    scratch = Scratch()
    try:
        models = choose_models(
            {name: loaded.model_origin(name) for name in loaded.models},
            fallback=loaded.fallback_model,
            provider="simulator",
            catalog=CATALOG,
            today=TODAY,
        )
        planner.make(
            tasks,
            job=loaded.name,
            provider="simulator",
            simulated=True,
            catalog=CATALOG,
            models=models,
            gates={},
            known=lambda keys: {},
            claim=scratch.claim,
        )
    except ManifestError as error:
        return error
    except (InputError, StopRun) as error:  # a model without a price, or without a future
        assert isinstance(error, RunnerError) and error.hint
        return None
    finally:
        scratch.close()
    names = [unicodedata.normalize("NFC", unicodedata.normalize("NFC", task.name).casefold()) for task in tasks]
    assert len(set(names)) == len(names)
    assert len({task.key for task in tasks}) == len(tasks)
    return None
