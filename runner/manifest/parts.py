"""What every mapping of a manifest with fixed keys has in common, and the kinds of value that several of them hold.

Owns the base of the models. Refuses to know a key.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from runner.manifest.values import as_bool, as_int, as_text

Text = Annotated[str, BeforeValidator(as_text)]
Int = Annotated[int, BeforeValidator(as_int)]
Bool = Annotated[bool, BeforeValidator(as_bool)]


class Part(BaseModel):
    """A mapping whose keys are known: any other is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_absent(cls, raw: Any) -> Any:
        """A key without a value is as good as no key, where there is a default other than None."""
        if not isinstance(raw, dict):
            return raw
        fields = cls.model_fields
        return {
            key: value
            for key, value in raw.items()
            if value is not None or key not in fields or fields[key].is_required() or fields[key].default is None
        }
