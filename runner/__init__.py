"""A batch job runner for high-volume image generation.

`load`, `plan`, `run`, `collect`, `render` and `gallery` do what the commands of the same names do; see `runner.api`.
Importing this package is cheap: what the names need is imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.api import Options, collect, gallery, load, plan, render, run

__version__ = "0.1.0"
_LAZY = ("Options", "collect", "gallery", "load", "plan", "render", "run")
__all__ = ["Options", "__version__", "collect", "gallery", "load", "plan", "render", "run"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from runner import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
