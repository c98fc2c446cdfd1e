"""How one setting is declared, and what a group of settings is."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(
    default: Any = ...,
    *,
    label: str,
    help: str,
    kohya: str | tuple[str, ...] = (),
    unit: str = "",
    front: bool = False,
    **limits: Any,
) -> Any:
    """Declare one setting. `front` puts it among the few that everyone sees; `kohya` names its equals there."""
    names = (kohya,) if isinstance(kohya, str) else kohya
    extra = {"label": label, "unit": unit, "kohya": list(names), "front": front}
    return Field(default, description=help, json_schema_extra=extra, **limits)


class Part(BaseModel):
    """A group of settings, as the form shows it. Frozen: a run never changes its own configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
