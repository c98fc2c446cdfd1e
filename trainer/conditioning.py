"""A prompt's weighted words as what the UNet is told, with the vectors of textual inversions in their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from trainer.families import clip
from trainer.families.base import BaseModel, Conditioning
from trainer.webui import chunking, encode, prompt


def condition(
    model: BaseModel,
    attention: prompt.Attention,
    clip_skip: int,
    embeddings: Mapping[str, list[Tensor]] = MappingProxyType({}),
    emphasis: str = "Original",
) -> Conditioning:
    """Text with weights -> conditioning [1, 77·n, D], each text encoder's states weighted on their own.

    `emphasis`: a key of `encode.EMPHASIS`.
    `embeddings`: the vectors of textual inversions for each text encoder, by name; they stand where the name does.
    """
    first = model.tokenizers[0]
    chunks = chunking.chunks(
        attention,
        lambda text: first(text, add_special_tokens=False, truncation=False, verbose=False).input_ids,
        bos=first.bos_token_id,
        eos=first.eos_token_id,
        embeddings={name: len(vectors[0]) for name, vectors in embeddings.items()},
    )
    tokens = [
        torch.tensor([[chunk.padded_with(tokenizer.pad_token_id) for chunk in chunks]], device=model.device)
        for tokenizer in model.tokenizers
    ]
    with _inverted(model, chunks, embeddings):
        said = model.family.encode(model, tokens, clip_skip)
    if all(weight == 1 for chunk in chunks for weight in chunk.weights):
        return said
    widths = [encoder.config.hidden_size for encoder in model.text_encoders]
    parts = said.hidden.view(len(chunks), -1, said.hidden.shape[-1]).split(widths, dim=-1)
    weighted = torch.cat([encode.emphasize(part, chunks, emphasis) for part in parts], dim=-1)
    return Conditioning(encode.join(weighted), said.pooled)


@contextmanager
def _inverted(model: BaseModel, chunks: list[chunking.Chunk], embeddings: Mapping[str, list[Tensor]]) -> Iterator[None]:
    """While inside, the token embeddings at the places of textual inversions are theirs."""
    hooks = []
    for index, encoder in enumerate(model.text_encoders):
        vectors = {name: embeddings[name][index] for chunk in chunks for _, name in chunk.embeddings}
        if vectors:
            table = clip.transformer(encoder).embeddings.token_embedding
            replaced = partial(encode.insert_embeddings, chunks=chunks, vectors=vectors)
            hooks.append(table.register_forward_hook(lambda _, __, made, replaced=replaced: replaced(made)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
