"""Providers, models, sizes, prices, limits and shutdown dates: a YAML file and its reader.

Owns every figure about the outside world (law 7), each with its source and date. Refuses to compute with them: what an
image costs is `rules.pricing`.

The heavy parts (Pydantic, YAML) are imported by the first call, so that importing this package is cheap.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runner.catalog.types import (
        BATCH_WINDOW_S,
        MOST_BATCH_REQUESTS,
        Catalog,
        Delivery,
        Fidelity,
        FreeSizes,
        InputTokens,
        Lifecycle,
        Model,
        Prices,
        Provider,
        Source,
        TierLimits,
    )

__all__ = [
    "BATCH_WINDOW_S",
    "MOST_BATCH_REQUESTS",
    "Catalog",
    "Delivery",
    "Fidelity",
    "FreeSizes",
    "InputTokens",
    "Lifecycle",
    "Model",
    "Prices",
    "Provider",
    "Source",
    "TierLimits",
    "load",
]


def load(override: Path | None = None) -> Catalog:
    """The catalog of this version, with `override` (a YAML file of the same shape, any part of it) laid over it.

    Raises:
        InputError: the override cannot be read or does not fit; the message names the file and the key.
    """
    from runner.catalog.reader import load

    return load(override)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runner.catalog import types

    return getattr(types, name)
