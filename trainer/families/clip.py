"""CLIP text encoders as Stable Diffusion uses them: chunks of 77 tokens, clip skip, module names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainer.errors import UserError
from trainer.webui.chunking import COMMA_BACKTRACK

if TYPE_CHECKING:
    from torch import Tensor, nn

LENGTH = 77  # what CLIP was trained with
WORDS = LENGTH - 2  # without start and end


def chunk_tokens(tokenizer: Any, text: str, backtrack: int = COMMA_BACKTRACK) -> list[list[int]]:
    """A text's token ids in rows of 77: start, up to 75 tokens, end, padding. At least one row.

    A full row ends behind its last comma, if that is at most `backtrack` tokens back, as A1111 parts a prompt: no tag
    is torn apart. 0 fills every row, as sd-scripts does.
    """
    ids = _ids(tokenizer, text)
    comma = _ids(tokenizer, ",") if len(ids) > WORDS else []
    commas = [at for at, one in enumerate(ids) if [one] == comma]
    rows, start = [], 0
    while not rows or start < len(ids):
        end = start + WORDS
        if end < len(ids) and end not in commas:
            end = max((at + 1 for at in commas if end - backtrack <= at < end), default=end)
        rows.append(wrap(tokenizer, ids[start:end]))
        start = end
    return rows


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def wrap(tokenizer: Any, ids: list[int]) -> list[int]:
    """At most 75 ids -> one row of 77. Padding is the tokenizer's own: the end token for CLIP-L, 0 for bigG."""
    row = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return row + [tokenizer.pad_token_id] * (LENGTH - len(row))


def transformer(encoder: nn.Module) -> nn.Module:
    """The module that holds `encoder.layers` and `final_layer_norm`: inside `text_model` or the model itself,
    depending on the class and on the version of transformers."""
    return getattr(encoder, "text_model", encoder)


def last_hidden(encoder: nn.Module, tokens: Tensor, clip_skip: int) -> Tensor:
    """Tokens [N, 77] -> [N, 77, D]: the layer that many from the end, then the final layer norm (A1111's way).

    Raises UserError when the encoder has fewer layers than that.
    """
    if clip_skip == 1:
        return encoder(tokens).last_hidden_state
    layers = len(transformer(encoder).encoder.layers)
    if clip_skip > layers:
        raise UserError(f"model.clip_skip = {clip_skip}: this text encoder has {layers} layers; use 1 to {layers}.")
    states = encoder(tokens, output_hidden_states=True).hidden_states
    return transformer(encoder).final_layer_norm(states[-clip_skip])


def penultimate(encoder: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """Tokens [N, 77] -> the output of the last layer but one [N, 77, D], without a norm, and the projected
    pooled output [N, P] where the encoder has one. This is what SDXL was trained on."""
    output = encoder(tokens, output_hidden_states=True)
    return output.hidden_states[-2], getattr(output, "text_embeds", None)


def lora_targets(encoder: nn.Module) -> list[str]:
    """Dotted paths of q_proj, k_proj, v_proj, out_proj, fc1 and fc2 of every layer."""
    from torch import nn

    return [
        path
        for path, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and (".self_attn." in path or ".mlp." in path)
    ]


def kohya_path(module_path: str) -> str:
    """The module's path as kohya knows it, below `text_model` whatever the version of transformers."""
    return "text_model." + module_path.removeprefix("text_model.")
