"""What a manifest says of who is told: how it is read, that no task hangs on it, and that no webhook is ever shown."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from runner import manifest
from runner.errors import InputError, ManifestError
from runner.manifest.notifying import ENDINGS, Notify, ending_of, expanded, is_hidden, shown_webhook, wrong_with
from runner.manifest.problems import without_urls
from tests.rules.manifest_data import job, loads, marked, refused, tasks

SECRET = "Qk9vT3Ix7uWz"
HOOK = f"https://hooks.example/services/T0/{SECRET}"
TOP = "name: a\nprompts: [A cat]\n"


def notify(text: str, *overrides: str) -> Notify:
    """The `notify` of a manifest that has this one."""
    found = job(f"notify: {text}\n", *overrides).notify
    assert found is not None
    return found


def test_a_manifest_that_says_nothing_tells_nobody() -> None:
    assert job("").notify is None
    assert job("notify:\n").notify is None
    assert "notify" not in manifest.resolved(job(""))


def test_every_word_of_notify() -> None:
    found = notify("{on: [done, stopped], command: [sh, mail.sh, 5, true], webhook: '${HOOK}', timeout: 1m30s}")
    assert found.on == ("done", "stopped")
    assert found.command == ("sh", "mail.sh", "5", "true")
    assert found.webhook == "${HOOK}"
    assert found.timeout == 90


def test_the_defaults() -> None:
    """What one wants to hear at breakfast, and ten seconds for whoever is told."""
    found = notify("{command: [a]}")
    assert (found.on, found.webhook, found.timeout) == (("done", "failed", "budget"), None, 10)
    assert notify("{command: [a], on: failed}").on == ("failed",)
    assert notify("{command: [a], on: , timeout: }") == found


def test_every_exit_code_has_exactly_one_word() -> None:
    """Those of the design's table, and any other is a failure."""
    codes = [code for codes in ENDINGS.values() for code in codes]
    assert sorted(codes) == [0, 1, 2, 4, 5, 6, 7, 8, 130]
    assert [ending_of(code) for code in (0, 4, 5, 130, 77)] == ["done", "failed", "budget", "stopped", "failed"]


MISTAKES = {
    "nobody": (TOP + "^notify: {on: done}\n", "neither a `command` nor a `webhook`", "add `command:"),
    "no mapping": (TOP + f"notify: ^{HOOK}\n", "must be a mapping", "webhook: URL"),
    "a list": (TOP + "notify: ^[sh]\n", "must be a mapping", "command: [...]"),
    "unknown key": (TOP + "notify: {^webhok: x}\n", "unknown key 'webhok'", "did you mean webhook?"),
    "no end": (TOP + "notify: {command: [a], on: ^[]}\n", "no end is told of", "done, failed, budget, stopped"),
    "another end": (TOP + "notify: {command: [a], on: ^fialed}\n", "'fialed' is no end", "did you mean failed?"),
    "another end of several": (TOP + "notify: {command: [a], on: [done, ^x]}\n", "'x' is no end", "it is one of"),
    "a line of shell": (TOP + "notify: {command: ^sh mail.sh}\n", "is a list", "[sh, -c, '...']"),
    "no program": (TOP + "notify: {command: ^[]}\n", "no program", "[sh, mail-report.sh]"),
    "an empty program": (TOP + "notify: {command: ^[' ']}\n", "no program", "[sh, mail-report.sh]"),
    "a list as an argument": (TOP + "notify: {command: [a, ^[b]]}\n", "text is wanted", "quoted"),
    "a list as a webhook": (TOP + "notify: {webhook: ^[b]}\n", "one text", "https://"),
    "another scheme": (TOP + f"notify: {{webhook: ^ftp://h/{SECRET}}}\n", "does not begin with https://", "${NAME}"),
    "no scheme": (TOP + f"notify: {{webhook: ^h/{SECRET}}}\n", "does not begin with https://", "${NAME}"),
    "no host": (TOP + f"notify: {{webhook: ^'https:///{SECRET}'}}\n", "no host", "${NAME}"),
    "a password": (TOP + f"notify: {{webhook: ^'https://u:{SECRET}@h/x'}}\n", "before an @", "${NAME}"),
    "a port": (TOP + f"notify: {{webhook: ^'https://h:99999/{SECRET}'}}\n", "no URL", "${NAME}"),
    "a space": (TOP + f"notify: {{webhook: ^'https://h/a {SECRET}'}}\n", "characters", "${NAME}"),
    "a letter of no URL": (TOP + f"notify: {{webhook: ^'https://h/é{SECRET}'}}\n", "characters", "${NAME}"),
    "no time": (TOP + "notify: {command: [a], timeout: ^soon}\n", "a time is wanted", "90m"),
    "a URL as a time": (TOP + f"notify: {{command: [a], timeout: ^'{HOOK}'}}\n", "a time is wanted", "90m"),
    "a URL as an end": (TOP + f"notify: {{command: [a], on: ^'{HOOK}'}}\n", "is no end", "it is one of"),
    "no time at all": (TOP + "notify: {command: [a], timeout: ^0}\n", "more than 0", "in the background"),
    "too long": (TOP + "notify: {command: [a], timeout: ^5m1s}\n", "at most 5m, not 5m1s", "in the background"),
}


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_at_its_place_without_the_webhook(text: str, message: str, hint: str) -> None:
    """Whoever reads a log of cron must not be able to post: no error repeats what of a URL is secret."""
    clean, place = marked(text)
    error = refused(clean)
    assert error.place == f"job.yaml:{place}"
    assert message in error.message
    assert hint in (error.hint or "")
    assert SECRET not in str(error)


def test_a_webhook_on_the_command_line_is_not_repeated() -> None:
    """A value of `--set` is its own place, and places are shown."""
    assert notify("{command: [a]}", f"notify.webhook={HOOK}").webhook == HOOK
    for words in (
        [f"notify.webhook=ftp{HOOK}"],
        [f"notify.webhook={HOOK}", "notify.timeout=x"],
        [f"notify.webhok={HOOK}"],
        [f"notify={{webhook: {HOOK}, on: x}}"],
        [f"notify={{webhook: [{HOOK}]"],
        [f"notfy.webhook={HOOK}"],
        [f"notify.webhook.x.y={HOOK}"],
        [f"notify.command={HOOK}"],
        [f"{HOOK}"],
        [f"samples={HOOK}"],
    ):
        with pytest.raises(InputError) as caught:
            notify("{command: [a]}", *words)
        assert SECRET not in str(caught.value), words


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (HOOK, "https://hooks.example/…"),
        ("https://hooks.example", "https://hooks.example"),
        ("https://hooks.example/", "https://hooks.example/"),
        (f"https://h.example:8443?token={SECRET}", "https://h.example:8443/…"),
        (f"https://h.example#{SECRET}", "https://h.example/…"),
        (f"HTTPS://h.example/{SECRET}", "https://h.example/…"),
        ("${HOOK}", "${HOOK}"),
        ("${HOOK}/${PART}", "${HOOK}/${PART}"),
        ("https://h.example/${PATH_OF_IT}", "https://h.example/${PATH_OF_IT}"),
        (f"https://h.example/{SECRET}/${{X}}", "https://h.example/…"),
        (f"${{HOOK}}/{SECRET}", "…"),
    ],
)
def test_what_is_shown_of_a_webhook(url: str, shown: str) -> None:
    """Its host, and the names of variables; never what they stand for."""
    assert shown_webhook(url) == shown
    assert is_hidden(shown) == (shown != url)
    text = manifest.resolved(job(f"notify: {{webhook: '{url}'}}\n"))
    assert SECRET not in text
    assert yaml.safe_load(text)["notify"]["webhook"] == shown


def test_a_password_is_not_shown_either() -> None:
    """Such a URL is refused; where it is shown all the same, it has none."""
    assert shown_webhook(f"https://user:{SECRET}@h.example:8443/x") == "https://h.example:8443/…"


@pytest.mark.parametrize(
    "text",
    [
        "{command: [sh, mail.sh], timeout: 90s, on: done}",
        f"{{webhook: '{HOOK}'}}",
        f"{{webhook: '${{HOOK}}{SECRET}', command: [curl, '--data=@-', {HOOK}]}}",
        "{webhook: '${HOOK}', on: [stopped]}",
    ],
)
def test_what_is_resolved_loads_again(text: str) -> None:
    """A batch is collected by what is on record; what that does not know of a webhook stays unknown."""
    loaded = job(f"notify: {text}\n")
    again = loads(manifest.resolved(loaded))
    assert manifest.resolved(again) == manifest.resolved(loaded)
    assert again.notify is not None
    assert again.notify.on == loaded.notify.on if loaded.notify else False
    assert SECRET not in manifest.resolved(loaded)


def test_who_is_told_pays_for_nothing_again() -> None:
    """Law 3: the tasks and the digest are the same, so that an enrolled job stays enrolled."""
    plain, telling = job("samples: 2\n"), job(f"samples: 2\nnotify: {{webhook: {HOOK}}}\n")
    assert [task.key for task in tasks(plain)] == [task.key for task in tasks(telling)]
    assert plain.digest(simulated=False) == telling.digest(simulated=False)


def test_variables_of_a_url() -> None:
    assert expanded("${A}/${B_2}$C", {"A": " https://h ", "B_2": "x"}) == "https://h/x$C"
    for environment in ({}, {"A": " "}):
        with pytest.raises(KeyError, match="A"):
            expanded("${A}", environment)


@given(st.text(max_size=40))
def test_any_text_is_a_webhook_or_has_a_reason(text: str) -> None:
    """And what is taken for one is shown without its path."""
    reason = wrong_with(text)
    assert reason is None or (len(reason) < 60 and (len(text) < 5 or text not in reason))
    for url in (f"https://h.example/{text}", f"https://h.example/{text}{SECRET}"):
        if wrong_with(url) is None:
            assert SECRET not in shown_webhook(url)
            assert shown_webhook(shown_webhook(url)) == shown_webhook(url)


@given(st.text(st.sampled_from("ab:/?#@ .'\"{}"), max_size=30))
def test_no_url_is_shown_beyond_its_host(text: str) -> None:
    """Whatever stands around it."""
    assert SECRET not in without_urls(f"{text} https://h.example/{SECRET} {text}")
    assert SECRET not in without_urls(f"{text} https://user:{SECRET}@h.example/x")
    assert without_urls("see http://h.example, or https://") == "see http://h.example, or https://"


@pytest.mark.parametrize(
    "text", ["{}", "{'on': done}", "{webhook: x, bla: 1}", "{command: []}", "{command: [a], 'on': [x]}",
             "{command: [a], 'on': []}", "{command: [a], timeout: 301}", "{command: sh}"],
)  # fmt: skip
def test_editors_see_the_same_mistakes(text: str) -> None:
    """What the schema refuses, the loader refuses too."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(f"{TOP}notify: {text}\n"), manifest.json_schema())
    with pytest.raises(ManifestError):
        job(f"notify: {text}\n")


@pytest.mark.parametrize(
    "text", ["{webhook: '${X}', 'on': done}", "{command: [a, 1], timeout: 90s, 'on': [done, failed]}"]
)
def test_editors_see_no_mistake_where_there_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(json.dumps(yaml.safe_load(f"{TOP}notify: {text}\n")))
    jsonschema.validate(json.loads((tmp_path / "job.yaml").read_text()), manifest.json_schema())
    assert notify(text)
