"""What the catalog knows of models, one entry for each model and provider that has a price for it.

Owns the shape of `runner models --json`.
"""

from __future__ import annotations

from typing import Any

from runner.catalog import Catalog


def models(catalog: Catalog) -> list[dict[str, Any]]:
    """Every (model, provider, delivery) with a price; prices in USD per million tokens, as text."""
    entries = []
    for prices in catalog.prices:
        model = catalog.models[prices.model]
        source = catalog.sources.get(prices.source)
        lifecycle = catalog.lifecycle(prices.provider, model.name)
        entries.append(
            {
                "type": "model",
                "model": model.name,
                "aliases": list(model.aliases),
                "provider": prices.provider,
                "delivery": prices.delivery,
                "shutdown": lifecycle.shutdown.isoformat() if lifecycle and lifecycle.shutdown else None,
                "successors": list(model.successors),
                "qualities": list(model.qualities),
                "sizes": list(model.sizes),
                "free_sizes": model.free_sizes is not None,
                "output_formats": list(model.output_formats),
                "max_prompt_chars": model.max_prompt_chars,
                "output_tokens": model.output_tokens,
                **{
                    name: str(getattr(prices, name))
                    for name in ("text_in", "cached_text_in", "image_in", "cached_image_in", "image_out")
                },
                # A file of one's own may name a source without listing it.
                "source": source.what if source is not None else prices.source,
                "as_of": source.date.isoformat() if source is not None else None,
                "catalog": catalog.version,
            }
        )
    return entries
