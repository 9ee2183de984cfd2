"""Runs the command line in forks of a process that has read its modules already, and kills each as it was ordered.

Orders are JSON lines on stdin, answers are exit codes on stdout (negative for a signal). `kill` names a function or
method (`module:Class.method`) and the call of it that is the last: `before` it is entered, `after` it has returned, or
`during` it, `after_s` seconds in. Without a place the process dies `after_s` seconds after its start. `pause_s` stops
the whole process for a moment before it dies, so that its peer hears what was sent. `environment` is laid over that of
this process. Arguments of this program are further modules to read once. What is wrapped is wrapped from
outside: the code under test does not know that it is about to die.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import inspect
import itertools
import json
import os
import signal
import sys
import threading
import time
from typing import Any

# What a run imports sooner or later; read once here instead of in every fork.
_MODULES = (
    "runner.cli.app",
    "runner.cli.progress",
    "runner.api",
    "runner.session",
    "alembic.command",
    "alembic.config",
    "anyio._backends._asyncio",
    "httpcore2",
    "openai.resources.images",
    "truststore",
)

_LONGEST_RUN_S = 120


def plant(
    place: str | None = None, when: str = "before", nth: int = 1, after_s: float = 0.0, pause_s: float = 0.0
) -> None:
    """Let the `nth` call of `place` be the last thing that this process does; without a place, `after_s` from now."""
    if place is None:
        _fall_later(after_s)
        return
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def fall(number: int, moment: str) -> None:
        if number != nth:
            return
        if moment == when:
            time.sleep(pause_s)
            os.kill(os.getpid(), signal.SIGKILL)
        if moment == "before" and when == "during":
            _fall_later(after_s)

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def deadly_async(*args: Any, **kwargs: Any) -> Any:
            number = next(calls)
            fall(number, "before")
            result = await original(*args, **kwargs)
            fall(number, "after")
            return result

        setattr(owner, name, deadly_async)
        return

    @functools.wraps(original)
    def deadly(*args: Any, **kwargs: Any) -> Any:
        number = next(calls)
        fall(number, "before")
        result = original(*args, **kwargs)
        fall(number, "after")
        return result

    setattr(owner, name, deadly)


def _fall_later(after_s: float) -> None:
    """Die `after_s` seconds from now, whatever the process is at then."""

    def fall() -> None:
        time.sleep(after_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=fall, daemon=True).start()


def obey(order: dict[str, Any]) -> None:
    """In the fork: the command line, with its streams in files; never returns. A run that hangs ends by SIGALRM."""
    signal.alarm(_LONGEST_RUN_S)
    for path, descriptor in ((order["out"], 1), (order["err"], 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    os.environ.update(order["environment"])
    if order["kill"] is not None:
        plant(**order["kill"])
    sys.argv = ["runner", *order["arguments"]]
    from runner.cli import main

    main()


def serve() -> None:
    """One order after another, until stdin ends."""
    for name in (*_MODULES, *sys.argv[1:]):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            obey(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
