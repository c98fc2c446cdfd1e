"""What a rule says of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from trainer.config import TrainConfig
from trainer.examples import Example


@dataclass(frozen=True)
class Problem:
    """One thing to look at. An *error* keeps the run from starting; a *warning* is said and left to the user."""

    setting: str  # path of the setting to change
    severity: Literal["error", "warning"]
    reason: str
    suggestion: Any = None  # a value that would mend it

    def __str__(self) -> str:
        remedy = "" if self.suggestion is None else f" Try {self.setting}={self.suggestion}."
        return f"{self.setting}: {self.reason}{remedy}"


Rule = Callable[[TrainConfig, list[Example]], Iterator[Problem]]
