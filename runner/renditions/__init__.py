"""Pictures that are derived from assets: cut to a size for a page or a mail, and put together on a contact sheet.

Owns pixels and the recipes by which they are made; the same bytes come of the same asset, recipe and library versions.
Refuses to know which assets there are, and where what it makes is written.
"""

from runner.renditions.recipe import Recipe, recipe_of

__all__ = ["Recipe", "recipe_of"]
