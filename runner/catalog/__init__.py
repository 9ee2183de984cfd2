"""Providers, models, sizes, prices, limits and shutdown dates: a YAML file and its reader.

Owns every figure about the outside world (law 7), each with its source and date. Refuses to compute with them: what an
image costs is `rules.pricing`.
"""

from runner.catalog.reader import load
from runner.catalog.types import (
    Catalog,
    Delivery,
    FreeSizes,
    Lifecycle,
    Model,
    Prices,
    Provider,
    Source,
    TierLimits,
)

__all__ = [
    "Catalog",
    "Delivery",
    "FreeSizes",
    "Lifecycle",
    "Model",
    "Prices",
    "Provider",
    "Source",
    "TierLimits",
    "load",
]
