"""The words of the world: its tokenizer, and the captions that the models are trained with."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from transformers import CLIPTokenizer

from trainer.toybox.scene import Scene, all_tags

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77  # as in CLIP, so that a long prompt really has to be cut into chunks
MERGES = 300

# Words that prompts for any model tend to hold; each gets a token or two instead of a string of letters.
COMMON = """
a an the of with and in on at to is by from art cartoon drawing picture photo image creature character style
person cat dog toy robot standing sitting looking simple cute best quality masterpiece low worst bad blurry
solo high detailed dark light bright big small old new night day water tree flower sky house
"""


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins for bytes that GPT-2 and CLIP use: printable bytes stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def learn_merges(counts: dict[str, int], merges: int) -> list[tuple[str, str]]:
    """Byte pair encoding (Sennrich et al. 2016): merge the most frequent neighbours, again and again."""
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    learned: list[tuple[str, str]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in words.items():
            for pair in zip(parts, parts[1:], strict=False):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        learned.append(best)
        words = {word: _merge(parts, best) for word, parts in words.items()}
    return learned


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


@cache
def vocabulary() -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """(token to id, merges), laid out as CLIP's: bytes, bytes that end a word, merges, start, end."""
    counts = Counter({word: 3 for word in COMMON.split()})
    for tag in all_tags():
        counts.update({word: 20 for word in tag.split() if word.isalpha()})
    merges = learn_merges(counts, MERGES)
    symbols = _byte_symbols()
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, tuple(merges)


def save_tokenizer(folder: Path, pad: str = END) -> None:
    """Write a CLIPTokenizer's files. SDXL's second one pads with "!", every other with the end token."""
    tokens, merges = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        **special,
    }
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", encoding="utf-8")


def nonsense(rng: np.random.Generator) -> str:
    """A word that nobody knows, 3 to 8 letters, sometimes pronounceable, sometimes with a digit."""
    length = int(rng.integers(3, 9))
    if rng.random() < 0.6:
        vowels, others = "aeiouy", "bcdfghklmnprstvwxz"
        start = rng.integers(0, 2)
        word = "".join(rng.choice(list((others, vowels)[(start + i) % 2])) for i in range(length))
    else:
        word = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), length))
    return word + str(rng.integers(0, 10)) if rng.random() < 0.1 else word


def training_caption(scene: Scene, rng: np.random.Generator, empty: float = 0.1) -> str:
    """The scene's tags as people's captions hold them: shuffled, some missing, sometimes with a strange word.

    The strange words teach the base to draw the rest of a prompt as if a trigger word were not there.
    """
    if rng.random() < empty:
        return ""
    first, *rest = scene.tags()
    if rng.random() < 0.5:
        rest = [tag for tag in rest if rng.random() > 0.2]
    rng.shuffle(rest)
    tags = [first, *rest]
    if rng.random() < 0.15:
        tags = tags[1:] or tags
    if rng.random() < 0.35:
        place = 0 if rng.random() < 0.75 else int(rng.integers(0, len(tags) + 1))
        tags.insert(place, nonsense(rng) + (" style" if rng.random() < 0.15 else ""))
    return ", ".join(tags)


@cache
def tokenizer() -> CLIPTokenizer:
    """The world's tokenizer, padding with the end token."""
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)
