"""The tokenizer of a base model alone, without its weights: to count how a prompt fills its chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.families.sources import resolve


@dataclass(frozen=True)
class Tokenizer:
    """`ids` gives a text's token ids without begin and end marks, as `webui.chunking.chunks` wants them."""

    name: str
    ids: Callable[[str], list[int]]
    bos: int
    eos: int
    size: int = 0  # of the vocabulary; 0 where it is not known


def tokenizer(base: str) -> Tokenizer:
    """The (first) tokenizer of a base model as `families.load` finds it. Raises UserError when there is none."""
    from trainer.families import folder, single_file

    source = resolve(base)
    if source.kind == "single_file":
        loaded = single_file.load_tokenizer(source.path, "tokenizer")
    else:
        loaded = folder.load_tokenizer(source.path / "tokenizer")

    def ids(text: str) -> list[int]:
        return loaded(text, add_special_tokens=False, truncation=False, verbose=False).input_ids

    return Tokenizer(source.name, ids, loaded.bos_token_id, loaded.eos_token_id, loaded.vocab_size)
