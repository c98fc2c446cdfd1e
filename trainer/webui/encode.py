"""Prompt weights applied to hidden states, and chunks joined to one conditioning, as A1111 does it."""

from collections.abc import Callable, Sequence

import torch

from trainer.errors import UserError, nearest
from trainer.webui.chunking import Chunk

Tensor = torch.Tensor


def original(z: Tensor, weights: Tensor) -> Tensor:
    """Weight the states, then scale every chunk back to its old mean (A1111's default).

    A1111 takes that mean over all prompts encoded together, which only differs where a prompt has a schedule;
    here it is the chunk's own, so that a prompt never depends on its batch.
    """
    weighted = z * weights
    mean = z.mean(dim=(-2, -1), keepdim=True)
    weighted_mean = weighted.mean(dim=(-2, -1), keepdim=True)
    # Where the weights cancel the states, there is no scale that would bring the mean back.
    return weighted * torch.where(weighted_mean == 0, torch.ones_like(mean), mean / weighted_mean)


def no_norm(z: Tensor, weights: Tensor) -> Tensor:
    """Weight the states and leave their mean where it lands."""
    return z * weights


def ignore(z: Tensor, weights: Tensor) -> Tensor:
    """Brackets are read, and have no effect."""
    return z


# "None" differs from "Ignore" in the parser alone: brackets stay text (`prompt.parse(…, emphasis=False)`).
EMPHASIS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Original": original,
    "No norm": no_norm,
    "Ignore": ignore,
    "None": ignore,
}


def emphasize(z: Tensor, chunks: Sequence[Chunk], mode: str = "Original") -> Tensor:
    """Hidden states [n, 77, D] of a prompt's n chunks with their weights applied; computed in float32.

    The pooled output is not touched by emphasis; A1111 takes it from the first chunk.
    """
    if mode not in EMPHASIS:
        raise UserError(f"There is no emphasis mode {mode!r}: {nearest(mode, EMPHASIS)}")
    weights = torch.tensor([chunk.weights for chunk in chunks], dtype=torch.float32, device=z.device)
    return EMPHASIS[mode](z.float(), weights.unsqueeze(-1)).to(z.dtype)


def join(z: Tensor) -> Tensor:
    """[n, 77, D] chunks side by side: [1, 77·n, D]."""
    return z.reshape(1, -1, z.shape[-1])


def encode(
    chunks: Sequence[Chunk],
    hidden_states: Callable[[Tensor, Sequence[Chunk]], Tensor],
    *,
    mode: str = "Original",
    pad: int | None = None,
    device=None,
) -> Tensor:
    """The conditioning [1, 77·n, D] of a prompt.

    `hidden_states(ids [n, 77], chunks)` runs the text encoder; it gets the chunks for their `embeddings`, the
    places at which a textual inversion replaces token embeddings. `pad` is the padding behind the first end
    mark where it is another token (0 for SDXL's second encoder).
    """
    ids = [chunk.ids if pad is None else chunk.padded_with(pad) for chunk in chunks]
    z = hidden_states(torch.tensor(ids, device=device), chunks)
    return join(emphasize(z, chunks, mode))


def insert_embeddings(inputs: Tensor, chunks: Sequence[Chunk], vectors: dict[str, Tensor]) -> Tensor:
    """Token embeddings [n, 77, D] with the vectors [k, D] of textual inversions at their places."""
    inputs = inputs.clone()
    for row, chunk in zip(inputs, chunks, strict=True):
        for position, name in chunk.embeddings:
            found = vectors[name].to(row)
            room = min(len(found), len(row) - position - 1)
            row[position : position + room] = found[:room]
    return inputs


def pad_to(conditioning: Tensor, tokens: int) -> Tensor:
    """A conditioning [1, t, D] with its last vector repeated, as A1111 pads the branches of an `AND`."""
    missing = tokens - conditioning.shape[1]
    if missing <= 0:
        return conditioning
    return torch.cat([conditioning, conditioning[:, -1:].expand(-1, missing, -1)], dim=1)
