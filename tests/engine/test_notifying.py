"""Who is told how a run has ended, what they are told, and that nothing of it ends a run otherwise or holds it up."""

from __future__ import annotations

import email
import email.policy
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from runner import notifying
from runner.engine import events
from runner.engine.events import Notified, Warned
from runner.report.lines import kind
from tests.edges.secrets_support import search
from tests.engine.command_support import GOOD, Desk, wait
from tests.engine.notifying_support import gone, hooked, loaded, summary

SECRET = "s3cr3t-p4th"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short, and no proxy of the machine's is in the way."""
    monkeypatch.setattr(notifying, "WAITS_S", (0.01, 0.01))
    for name in list(os.environ):
        if name.upper().endswith("_PROXY") or name == "OPENAI_API_KEY":
            monkeypatch.delenv(name)


def tell(
    notify: Mapping[str, object] | None, folder: Path, *, report: Path | None = None, api_key_env: str | None = None,
    **changes: Any,
) -> list[events.Event]:  # fmt: skip
    """What was heard of telling of a run that ended with `changes`."""
    heard: list[events.Event] = []

    async def main() -> None:
        await notifying.notify(
            loaded(notify, folder),
            folder,
            summary(**changes),
            report=report,
            emit=heard.append,
            api_key_env=api_key_env,
        )

    anyio.run(main)
    for event in heard:
        search("an event", repr(event).encode(), SECRET)
    return heard


def script(folder: Path, text: str) -> list[str]:
    """A program in Python, as a command."""
    (folder / "hook.py").write_text(text)
    return [sys.executable, "hook.py"]


def warning(heard: list[events.Event]) -> str:
    """The one thing that was heard, which is a warning."""
    (event,) = heard
    assert isinstance(event, Warned), event
    return event.message


# -- whether ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "word"),
    [(0, "done"), (1, "failed"), (2, "failed"), (4, "failed"), (6, "failed"), (5, "budget"), (8, "stopped"),
     (130, "stopped"), (7, "stopped"), (99, "failed")],
)  # fmt: skip
def test_every_exit_code_has_one_word(tmp_path: Path, code: int, word: str) -> None:
    """Who names that word hears of it, and who names all the others does not."""
    others = [one for one in ("done", "failed", "budget", "stopped") if one != word]
    with hooked() as hook:
        assert tell({"webhook": hook.url, "on": others}, tmp_path, exit_code=code) == []
        assert hook.posted == []
        (event,) = tell({"webhook": hook.url, "on": word}, tmp_path, exit_code=code)
    assert isinstance(event, Notified)
    assert [one["exit_code"] for one in hook.posted] == [code]


def test_a_job_without_notify_tells_nobody(tmp_path: Path) -> None:
    assert tell(None, tmp_path) == []


def test_an_interruption_is_told_only_to_who_asks(tmp_path: Path) -> None:
    """The default is what one wants to hear at breakfast: a Ctrl-C of one's own is not."""
    with hooked() as hook:
        assert tell({"webhook": hook.url}, tmp_path, exit_code=130) == []
        assert tell({"webhook": hook.url}, tmp_path, exit_code=5) == [Notified("webhook", _shown(hook.url), 1)]


def _shown(url: str) -> str:
    return url.partition("/services")[0] + "/…"


# -- the web ------------------------------------------------------------------------------------


def test_a_webhook_gets_the_summary_as_json(tmp_path: Path) -> None:
    """The very line of `--json`, with the report's path, and one sentence for chats."""
    with hooked() as hook:
        heard = tell({"webhook": hook.url}, tmp_path, report=tmp_path / "report.html", made=7)
    assert heard == [Notified("webhook", _shown(hook.url), 1)]
    (body,) = hook.posted
    assert body["type"] == "summary"
    assert body["made"] == 7
    assert body["report"] == str(tmp_path / "report.html")
    assert body["text"] == body["content"]
    assert body["text"].startswith("spring: all that was wanted exists (7 images made with 9 requests, 8 of 10 done")
    assert "cost $0.05" in body["text"]
    assert hook.headers[0]["Content-Type"] == "application/json"
    assert hook.paths == ["/services/T0/s3cr3t-p4th"]


@pytest.mark.parametrize("status", [500, 502, 429])
def test_a_server_in_trouble_is_tried_again(tmp_path: Path, status: int) -> None:
    with hooked(status, status, 204) as hook:
        assert tell({"webhook": hook.url}, tmp_path) == [Notified("webhook", _shown(hook.url), 3)]
        assert len(hook.posted) == 3


def test_three_tries_are_enough(tmp_path: Path) -> None:
    """Then it is a warning, with the number that the server answered and nothing else of its answer."""
    with hooked(503) as hook:
        told = warning(tell({"webhook": hook.url}, tmp_path))
        assert len(hook.posted) == 3
    assert told == f"the webhook {_shown(hook.url)} was not reached: the server answered 503 (tried 3 times)"


@pytest.mark.parametrize("status", [400, 401, 404, 410])
def test_what_a_server_does_not_take_is_not_repeated(tmp_path: Path, status: int) -> None:
    with hooked(status) as hook:
        assert f"answered {status}" in warning(tell({"webhook": hook.url}, tmp_path))
        assert len(hook.posted) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(tmp_path: Path, status: int) -> None:
    """What is posted reaches nobody whom the manifest does not name."""
    with hooked() as other, hooked((status, {"Location": other.url})) as hook:
        told = warning(tell({"webhook": hook.url}, tmp_path))
        assert "redirects are not followed" in told
        assert (len(hook.posted), len(other.posted)) == (1, 0)


@pytest.mark.parametrize(
    ("said", "wait_s"), [("7", 7.0), ("3600", 10.0), ("soon", 0.01), ("-1", 0.01), ("9" * 400, 0.01), ("²", 0.01)]
)
def test_a_server_may_say_when_to_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, wait_s: float
) -> None:
    """`Retry-After` is granted up to ten seconds."""
    waits: list[float] = []
    real = anyio.sleep

    async def sleep(delay: float) -> None:
        if delay != 0.02:
            waits.append(delay)
        await real(min(delay, 0.02))

    monkeypatch.setattr(anyio, "sleep", sleep)
    shown = said.encode().decode("latin-1")
    with hooked((429, {"Retry-After": shown}), 200) as hook:
        tell({"webhook": hook.url}, tmp_path)
        assert len(hook.posted) == 2
    assert waits == [wait_s]


def test_a_server_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}"
        assert "Connection refused (tried 3 times)" in warning(tell({"webhook": url}, tmp_path))


def test_a_server_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    """Neither by a try, nor, when the run is interrupted once more, by the process."""
    with hooked(silent_s=60) as hook:
        told = warning(tell({"webhook": hook.url, "timeout": 0.2}, tmp_path))
        assert len(hook.posted) == 3
    assert "no answer in time (tried 3 times)" in told


def test_a_server_that_drips_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter every now and then is no answer: the time is that of a try, and not of a letter."""
    monkeypatch.setattr(notifying, "MOST_S", 15.0)
    with hooked(drips=True) as hook:
        told = warning(tell({"webhook": hook.url, "timeout": 0.3}, tmp_path))
    assert "no answer in time (tried 3 times)" in told


def test_all_of_it_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long each may take: an interrupted run is over soon."""
    monkeypatch.setattr(notifying, "MOST_S", 0.3)
    with hooked(silent_s=60) as hook:
        command = script(tmp_path, "import time; time.sleep(60)")
        notify = {"webhook": hook.url, "command": command, "timeout": "5m", "on": "stopped"}
        began = time.monotonic()
        assert warning(tell(notify, tmp_path, exit_code=130)) == "not everyone was told of the run's end within 0.3 s"
    assert time.monotonic() - began < 30


def test_no_thread_outlives_what_waits_for_it(tmp_path: Path) -> None:
    """A process that ends while a server is silent ends: the thread that waits is nobody's."""
    import threading

    with hooked(silent_s=60) as hook:
        tell({"webhook": hook.url, "timeout": 0.1}, tmp_path)
        waiting = [thread for thread in threading.enumerate() if thread.name == "webhook"]
        assert all(thread.daemon for thread in waiting)


@pytest.mark.parametrize("webhook", ["${HOOK_URL}", "http://127.0.0.1:${HOOK_PORT}/services/${HOOK_PATH}"])
def test_variables_are_filled_in_when_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, webhook: str) -> None:
    with hooked() as hook:
        monkeypatch.setenv("HOOK_URL", hook.url)
        monkeypatch.setenv("HOOK_PORT", str(hook.port))
        monkeypatch.setenv("HOOK_PATH", f"T0/{SECRET}")
        assert tell({"webhook": webhook}, tmp_path) == [Notified("webhook", _shown(hook.url), 1)]
        assert hook.paths == [f"/services/T0/{SECRET}"]


def test_a_variable_that_is_missing_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOOK_URL", raising=False)
    told = warning(tell({"webhook": "${HOOK_URL}"}, tmp_path))
    assert told == "the webhook ${HOOK_URL} is not called: the environment variable HOOK_URL is not set"


@pytest.mark.parametrize("value", [f"file:///etc/{SECRET}", SECRET, f"https://{SECRET}@h/x", f"https://h/{SECRET} x"])
def test_a_variable_that_holds_no_webhook_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """And what it holds is not told."""
    monkeypatch.setenv("HOOK_URL", value)
    assert warning(tell({"webhook": "${HOOK_URL}"}, tmp_path)).startswith("the webhook ${HOOK_URL} is not called: it ")


def test_a_webhook_of_which_only_the_host_is_on_record_is_not_called(tmp_path: Path) -> None:
    """A run by the manifest that an earlier one has left on record knows no more."""
    assert "only this much of it is on record" in warning(tell({"webhook": "https://hooks.invalid/…"}, tmp_path))


def test_plain_http_to_another_machine_is_warned_of(tmp_path: Path) -> None:
    heard = tell({"webhook": f"http://hooks.invalid/{SECRET}"}, tmp_path)
    assert [type(event) for event in heard] == [Warned, Warned]
    assert "in the clear" in heard[0].message  # type: ignore[union-attr]  # it is a warning


def test_loopback_is_asked_directly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever proxy the environment names."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with hooked() as hook:
        assert tell({"webhook": hook.url}, tmp_path) == [Notified("webhook", _shown(hook.url), 1)]


# -- commands -----------------------------------------------------------------------------------

_TAKE = """
import json, os, sys
from pathlib import Path
Path("taken.json").write_text(json.dumps([json.loads(sys.stdin.read()), dict(os.environ), os.getcwd(), sys.argv[1:]]))
print("this is said and not shown")
"""


def test_a_command_reads_the_summary(tmp_path: Path) -> None:
    """From its standard input, in the manifest's folder, with the most needed in its environment; no shell reads it."""
    command = [*script(tmp_path, _TAKE), "$HOME; *", "a b"]
    report = tmp_path / "report.html"
    assert tell({"command": command}, tmp_path, report=report, exit_code=4) == [Notified("command", sys.executable, 1)]
    entry, environment, folder, arguments = json.loads((tmp_path / "taken.json").read_text())
    assert (entry["type"], entry["job"], entry["report"]) == ("summary", "spring", str(report))
    assert "text" not in entry
    told = {name: environment[f"RUNNER_{name}"] for name in ("JOB", "EXIT_CODE", "REPORT")}
    assert told == {"JOB": "spring", "EXIT_CODE": "4", "REPORT": str(report)}
    assert Path(folder) == tmp_path.resolve()
    assert arguments == ["$HOME; *", "a b"]


def test_a_command_gets_no_api_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the well-known ones, nor the one of this run, nor another variable with the same value."""
    key = "sk-proj-Vq3_9fLk2ZtX7bRw"
    for name in ("OPENAI_API_KEY", "COMETAPI_KEY", "MY_KEY", "A_COPY"):
        monkeypatch.setenv(name, key if name in ("MY_KEY", "A_COPY") else f"{key}-{name}")
    monkeypatch.setenv("UNRELATED", "stays")
    tell({"command": script(tmp_path, _TAKE)}, tmp_path, api_key_env="MY_KEY")
    environment = json.loads((tmp_path / "taken.json").read_text())[1]
    assert environment["UNRELATED"] == "stays"
    search("the environment", json.dumps(environment).encode(), key)


def test_a_program_beside_the_manifest_is_found_by_its_path(tmp_path: Path) -> None:
    """`./program`, wherever runner was called; without the `./` it is looked for among the system's."""
    program = tmp_path / "tell-me"
    program.write_text("#!/bin/sh\ncat > got.json\n")
    program.chmod(0o755)
    assert tell({"command": ["./tell-me"]}, tmp_path) == [Notified("command", "./tell-me", 1)]
    assert json.loads((tmp_path / "got.json").read_text())["job"] == "spring"
    told = warning(tell({"command": ["tell-me"]}, tmp_path))
    assert told.endswith("No such file or directory; for the file beside the manifest write ./tell-me")


def test_a_command_that_fails_is_a_warning_with_its_last_words(tmp_path: Path) -> None:
    """The last five lines; a URL in them is cut after its host."""
    text = f"import sys\nfor n in range(9): print('line', n)\nsys.exit('no https://h.invalid/{SECRET} there')"
    told = warning(tell({"command": script(tmp_path, text)}, tmp_path))
    assert told.endswith("failed (exit code 1): line 5 / line 6 / line 7 / line 8 / no https://h.invalid/… there")


def test_no_more_is_kept_of_what_a_command_says_than_is_shown(tmp_path: Path) -> None:
    """However much it is; and where it is cut, nothing is left of a URL that began before."""
    text = f"import sys\nprint('x' * 9_000_000)\nsys.exit('https://h.invalid/' + '{SECRET}' * 2 + 'z' * 4070 + ' end')"
    told = warning(tell({"command": script(tmp_path, text)}, tmp_path))
    assert told.endswith("failed (exit code 1): end")
    told = warning(tell({"command": script(tmp_path, "import sys\nsys.exit('a b ' * 2_000_000)")}, tmp_path))
    assert len(told) < 5000


def test_a_command_that_never_ends_is_killed_with_all_it_has_started(tmp_path: Path) -> None:
    """The process group, so that no child of a shell goes on sending."""
    text = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}')\n"
        "time.sleep(600)\n"
    )
    told = warning(tell({"command": script(tmp_path, text), "timeout": 3}, tmp_path))
    assert "was ended after 3 s" in told
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_a_command_goes_with_who_waits_for_it(tmp_path: Path) -> None:
    """A second Ctrl-C ends the wait, and leaves nothing behind."""
    heard: list[events.Event] = []
    command = script(tmp_path, "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                await notifying.notify(
                    loaded({"command": command, "timeout": "5m"}, tmp_path), tmp_path, summary(), report=None,
                    emit=heard.append,
                )  # fmt: skip

            group.start_soon(wait)
            while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()

    anyio.run(main)
    assert heard == []
    assert gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_ends_the_telling_and_not_the_run(desk: Desk) -> None:
    """The images are there, and the run ends as it would have: its summary and its exit code are said."""
    command = [sys.executable, "-c", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"]
    job = desk.manifest("spring", GOOD, notify={"command": command, "timeout": "5m"})
    process = desk.start("run", job, *desk.to_peer)
    pid = desk.folder / "pid"
    until = time.monotonic() + 60
    while not (pid.is_file() and pid.read_text()) and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = wait(process)
    assert said.code == 0
    assert "all that was wanted exists" in said.out
    assert "interrupted: not everyone was told of the run's end" in said.err
    assert gone(int(pid.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "pass",
        "import os; os.close(0)",
        "import sys; sys.stdout.write('x' * 10_000_000)",
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(30)'])",
    ],
    ids=["reads nothing", "closes its input", "says too much", "leaves a child with its output"],
)
def test_a_command_may_be_odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """It has ended when its process has, whatever it read, said and left behind."""
    monkeypatch.setattr(notifying, "MOST_S", 15.0)
    notify = {"command": script(tmp_path, text), "timeout": "5m", "on": "stopped"}
    assert tell(notify, tmp_path, exit_code=130) == [Notified("command", sys.executable, 1)]


@pytest.mark.parametrize("command", [["no-such-program-anywhere"], ["./nothing"], ["/"]])
def test_a_command_that_cannot_be_run_is_a_warning(tmp_path: Path, command: list[str]) -> None:
    assert warning(tell({"command": command}, tmp_path)).startswith(f"the command {command[0]} cannot be run: ")


def test_a_folder_that_is_gone_is_a_warning(tmp_path: Path) -> None:
    """A collected batch's manifest may have been deleted with its folder."""
    assert "cannot be run" in warning(tell({"command": ["true"]}, tmp_path / "gone"))


def test_a_command_with_a_url_is_not_run_by_what_is_on_record_of_it(tmp_path: Path) -> None:
    assert "not on record" in warning(tell({"command": ["touch", "https://h.invalid/…"]}, tmp_path))
    assert list(tmp_path.iterdir()) == []


# -- both ---------------------------------------------------------------------------------------


def test_one_that_fails_keeps_the_other_from_nothing(tmp_path: Path) -> None:
    with hooked(404) as hook:
        heard = tell({"webhook": hook.url, "command": script(tmp_path, "")}, tmp_path)
    assert {type(event) for event in heard} == {Warned, Notified}


def test_a_fault_of_ours_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are made and paid for: no run fails for a message."""

    def explode(*_: object) -> None:
        raise RuntimeError(f"https://h.invalid/{SECRET}")

    monkeypatch.setattr(notifying, "_post", explode)
    assert (
        warning(tell({"webhook": "https://h.invalid/x"}, tmp_path)) == "the run's end could not be told: RuntimeError"
    )


def test_the_sentence_is_short_and_whole(tmp_path: Path) -> None:
    """One line, whatever the reason; what is not done is in it, and simulated money is called so."""
    text = notifying.sentence(
        summary(reason="x" * 900 + "\n  hint: y", simulated=True, in_doubt_microusd=9, failed=2, submitted=3)
    )
    assert "\n" not in text
    assert len(text) < 700
    assert "simulated, would have cost $0.05" in text
    assert "3 submitted, 2 failed" in text
    assert "$0.000009 in doubt" in text


def test_the_event_has_a_line() -> None:
    assert kind(Notified("webhook", "https://h/…", 1)) == "notified"


def test_the_mail_of_the_documentation_is_one(tmp_path: Path) -> None:
    """The script that `docs/commands.md` shows makes a mail of the report that a mail program can read."""
    docs = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
    (text,) = re.findall(r"```sh\n(#!/bin/sh\n.*?)```", docs.read_text("utf-8"), re.DOTALL)
    sendmail = "/usr/sbin/sendmail -t"
    assert sendmail in text
    (tmp_path / "mail-report.sh").write_text(text.replace(sendmail, "cat > mail.eml"))
    report = tmp_path / "report.html"
    report.write_text(f"<!DOCTYPE html><p>Schöne Bilder{'x' * 9000}</p>", "utf-8")
    notify = {"command": ["sh", "mail-report.sh"]}
    assert tell(notify, tmp_path, report=report, exit_code=4) == [Notified("command", "sh", 1)]
    mail = email.message_from_bytes((tmp_path / "mail.eml").read_bytes(), policy=email.policy.default)
    assert mail["Subject"] == "spring ended with exit code 4"
    assert mail.get_content_type() == "text/html"
    assert max(map(len, (tmp_path / "mail.eml").read_bytes().splitlines())) < 998
    assert mail.get_content().strip() == report.read_text("utf-8")
