"""What an exact resume needs, written whole: the adapter and its average in float32, the optimizer's state and the
position."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.errors import UserError
from trainer.files import write_with


@dataclass(frozen=True)
class Position:
    """Where training stands: `epoch` epochs are finished and `update` updates of the next one, `step` in all; each
    update sees `group` batches, over all processes (0 in states that do not say)."""

    epoch: int = 0
    update: int = 0
    step: int = 0
    group: int = 0


def save_state(
    folder: Path,
    position: Position,
    adapter: dict,
    optimizer: dict,
    scaler: dict | None,
    average: dict | None,
) -> Path:
    """One file, renamed into place: a kill leaves the state before or the state after, never half of one."""
    weights = {"adapter": adapter, "optimizer": optimizer, "scaler": scaler, "average": average}
    state = {"position": asdict(position), **weights}
    return write_with(Path(folder) / "state.pt", lambda path: _save(state, path))


def _save(state: dict, path: Path) -> None:
    try:
        # Into a file of ours, which says why it cannot be written: torch's says that a position is unexpected.
        with open(path, "wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def load_state(folder: Path) -> dict[str, Any] | None:
    """The newest state, or None when the run has not got that far. Only tensors and plain values are read."""
    path = Path(folder) / "state.pt"
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises many kinds; each of them means the same to the owner of the run.
        message = f"The saved state {path} is damaged ({error}); delete it to train again from the first step."
        raise UserError(message) from error
    state["position"] = Position(**state["position"])
    return state
