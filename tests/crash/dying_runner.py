"""Runs the command line in forks of a process that has read its modules already, and kills each at a given call.

Orders are JSON lines on stdin, answers are exit codes on stdout (negative for a signal). `kill` names a function or
method (`module:Class.method`), whether to die before it is entered or after it has returned, and at which call. What
is wrapped is wrapped from outside: the code under test does not know that it is about to die.
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


def plant(place: str, when: str, nth: int) -> None:
    """Let the `nth` call of `place` be the last thing that this process does."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    calls = itertools.count(1)

    def fall(number: int, moment: str) -> None:
        if number == nth and moment == when:
            os.kill(os.getpid(), signal.SIGKILL)

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


def obey(order: dict[str, Any]) -> None:
    """In the fork: the command line, with its streams in files; never returns."""
    for path, descriptor in ((order["out"], 1), (order["err"], 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if order["kill"] is not None:
        plant(**order["kill"])
    sys.argv = ["runner", *order["arguments"]]
    from runner.cli import main

    main()


def serve() -> None:
    """One order after another, until stdin ends."""
    for name in _MODULES:
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
