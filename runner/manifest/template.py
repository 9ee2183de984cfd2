"""Templates of prompts and names: Jinja's expressions in a sandbox with bounds.

Owns what a template may contain (an allow-list: expressions, `if`, one level of `for`), the filters and methods in it,
and how large its result may grow. Refuses to know which variables there are.

Most templates only name variables; those never reach Jinja, which is imported by the first one that does more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runner.manifest.problems import Wrong, nearest, shown, suggest
from runner.manifest.values import text_of

MAX_RESULT_CHARS = 65_536

_MARKUP = re.compile(r"\{\{|\{%|\{#")
_VARIABLE = re.compile(
    r"\{\{[ \t]*((?:image|mask)\.(?:stem|name|suffix|width|height)|[A-Za-z_][A-Za-z0-9_]*)[ \t]*\}\}"
)
_UNDEFINED = re.compile(r"'([^']+)' is undefined|attribute '([^']+)'")
_CONSTANTS = frozenset({"true", "false", "none", "True", "False", "None", "self", "loop", "range"})


class Template(Protocol):
    """A compiled template. `names` are the variables it uses, `work_chars` what its renderings have worked through."""

    names: frozenset[str]
    work_chars: int

    def render(self, values: Mapping[str, Any]) -> str:
        """The text, with `values` in place of their names.

        Raises:
            Wrong: a name has no value, or the template fails with these values.
        """


@dataclass(slots=True)
class Constant:
    """A text without markup."""

    text: str
    names: frozenset[str] = frozenset()
    work_chars: int = 0

    def render(self, values: Mapping[str, Any]) -> str:
        """The text itself."""
        return self.text


@dataclass(slots=True)
class Simple:
    """A template of text and plain variables. `parts` has text at even, names at odd places.

    A part of an image is a variable by itself here (`image.stem`), and `names` has the image's.
    """

    parts: tuple[str, ...]
    names: frozenset[str]
    finalize: Callable[[str], str] | None = None
    work_chars: int = 0

    def render(self, values: Mapping[str, Any]) -> str:
        """The text, by simple substitution."""
        done: list[str] = []
        for index, part in enumerate(self.parts):
            if index % 2 == 0:
                done.append(part)
                continue
            try:
                text = text_of(values[part])
            except KeyError:
                raise Wrong(
                    f"the template names {part!r}, which has no value here",
                    hint=_undefined_hint(values),
                    word=part,
                ) from None
            done.append(self.finalize(text) if self.finalize else text)
        return _bounded("".join(done))


@dataclass(slots=True)
class Sandboxed:
    """A template that Jinja renders."""

    template: Any
    names: frozenset[str]
    work_chars: int = 0

    def render(self, values: Mapping[str, Any]) -> str:
        """The text, rendered in the sandbox piece by piece, so that a result that grows too large stops early."""
        from jinja2 import UndefinedError
        from jinja2.exceptions import SecurityError, TemplateError

        from runner.manifest.metering import Meter
        from runner.manifest.sandbox import render

        pieces: list[str] = []
        length = 0
        meter = Meter()
        try:
            for piece in render(self.template, values, meter):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_RESULT_CHARS:
                    break
        except UndefinedError as error:
            hit = _UNDEFINED.search(str(error))
            word = (hit[1] or hit[2]) if hit else None
            raise Wrong(f"the template fails: {error.message}", hint=_undefined_hint(values), word=word) from None
        except SecurityError as error:
            raise Wrong(
                f"the template does what no template may: {error}",
                hint="use plain values, and the filters and methods listed in docs/manifest.md",
            ) from None
        except Wrong:
            raise
        except (TemplateError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise Wrong(
                f"the template fails: {type(error).__name__}: {error}", hint="check the kinds of its values"
            ) from None
        except (RecursionError, MemoryError):
            raise Wrong("the template is nested too deeply", hint="make it simpler") from None
        finally:
            self.work_chars += meter.spent_chars
        return _bounded("".join(pieces))


def _bounded(text: str) -> str:
    if len(text) > MAX_RESULT_CHARS:
        raise Wrong(
            f"the template's result grows over {MAX_RESULT_CHARS:,} characters",
            hint="shorten it: no model takes so long a prompt",
        )
    return text


def _undefined_hint(values: Iterable[str]) -> str:
    return suggest("", sorted(values), what="known here")


def compile_template(text: str, known: Iterable[str], *, finalize: Callable[[str], str] | None = None) -> Template:
    """Compile `text`, whose variables must be among `known`. `finalize` is applied to every substituted value.

    Raises:
        Wrong: a syntax error, a name that is not known, or what the sandbox does not allow.
    """
    if not _MARKUP.search(text):
        return Constant(text)
    parts = _VARIABLE.split(text)
    names = frozenset(part.partition(".")[0] for part in parts[1::2])
    template: Template
    if not names & _CONSTANTS and not any(_MARKUP.search(part) for part in parts[::2]):
        template = Simple(tuple(parts), names, finalize)
    else:
        from runner.manifest.sandbox import compile_sandboxed

        compiled, names = compile_sandboxed(text, finalize)
        template = Sandboxed(compiled, names)
    every = list(known)
    for name in sorted(names - set(every), key=text.find):
        close = nearest(name, every)
        raise Wrong(
            f"the template names {shown(name)}, which does not exist",
            hint=(f"did you mean {close}? " if close else "")
            + f"known here: {', '.join(every)}; others go under `vars` or `matrix`",
            word=name,
        )
    return template
