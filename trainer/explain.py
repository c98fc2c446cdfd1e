"""A prompt taken apart the way A1111 reads it: networks, AND branches, schedule, weights and chunks.

The words are counted with the tokenizer of a base. Where none is at hand they are estimated by CLIP's own rule
for cutting a text into words before it looks for parts of words (Radford et al. 2021, `simple_tokenizer.py` of
openai/CLIP): runs of letters, single digits, runs of other marks. Each is at least one token, so the estimate is
a lower bound: rare words take several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import shelf
from trainer.errors import UserError
from trainer.families.tokens import Tokenizer, tokenizer
from trainer.webui import chunking, prompt
from trainer.webui.chunking import CHUNK, Chunk
from trainer.webui.prompt import Prompt

DEFAULT_BASE = "toybox/sd15"
ESTIMATE = "estimated"
_WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|[^\s\w]+|_+", re.IGNORECASE)


@dataclass(frozen=True)
class Embedding:
    """A textual inversion that a prompt names; `vectors` is None when its file is missing."""

    name: str
    vectors: int | None


@dataclass(frozen=True)
class Explanation:
    """A prompt taken apart. `chunks` are those of each branch's first scheduled text, branch by branch."""

    prompt: Prompt
    chunks: list[list[Chunk]]
    networks: dict[str, Path | None]  # name of a <lora:…> -> its file in models/, None when missing
    embeddings: list[Embedding]
    counted_by: str  # the base whose tokenizer counted, or ESTIMATE

    def as_json(self) -> dict[str, Any]:
        """{"networks": [{kind, name, args}], "branches": [{text, weight, schedule}], "chunks": [{tokens, text}]}."""
        return {
            "networks": [{"kind": n.kind, "name": n.name, "args": list(n.args)} for n in self.prompt.networks],
            "branches": [_branch(branch) for branch in self.prompt.branches],
            "chunks": [{"tokens": chunk.count, "text": chunk.text} for part in self.chunks for chunk in part],
        }


def _branch(branch: prompt.Branch) -> dict[str, Any]:
    schedule = [
        {"until": entry.until, "text": entry.text, "attention": [list(run) for run in entry.attention]}
        for entry in branch.schedule
    ]
    return {"text": branch.text, "weight": branch.weight, "schedule": schedule}


def explain(
    text: str,
    steps: int = 20,
    hires_steps: int | None = None,
    *,
    base: str = "",
    models: Path = Path("models"),
    embeddings: Path = Path("embeddings"),
) -> Explanation:
    """Take a prompt apart for `steps` steps, or for the hires pass of `hires_steps` behind them.

    Without `base` the toybox's tokenizer counts, or an estimate where that is not installed. Raises UserError
    for a base that has no tokenizer and for fewer steps than one.
    """
    for option, value in (("--steps", steps), ("--hires-steps", hires_steps)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give at least 1.")
    read = prompt.parse(text, steps, hires_steps)
    counter = _counter(base)
    known = shelf.find_embeddings(embeddings)
    texts = [branch.schedule[0].attention for branch in read.branches]
    used = _embeddings(text, known)
    sizes = {one.name: one.vectors for one in used if one.vectors}
    chunks = [
        chunking.chunks(attention, counter.ids, bos=counter.bos, eos=counter.eos, embeddings=sizes)
        for attention in texts
    ]
    networks = {n.name: shelf.find_network(n.name, models) for n in read.networks if n.is_lora}
    return Explanation(read, chunks, networks, used, counter.name)


def _counter(base: str) -> Tokenizer:
    if base:
        return tokenizer(base)
    try:
        return tokenizer(DEFAULT_BASE)
    except UserError:
        return estimate()


def estimate() -> Tokenizer:
    """Counts words and marks where no tokenizer is at hand; equal words have equal ids."""
    vocabulary: dict[str, int] = {}

    def ids(text: str) -> list[int]:
        return [vocabulary.setdefault(word.lower(), len(vocabulary) + 2) for word in _WORDS.findall(text)]

    return Tokenizer(ESTIMATE, ids, 0, 1)


def _embeddings(text: str, known: dict[str, Path]) -> list[Embedding]:
    """Embeddings in the text: files by their names, and `embedding:name` (ComfyUI's way), which may be missing."""
    found = [Embedding(name, shelf.count_vectors(known[name])) for name in shelf.named_in(text, known)]
    return found + [Embedding(name, None) for name in shelf.missing_in(text, known)]


# ── for the terminal ────────────────────────────────────────────────────────────────────────────────────


def lines(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """(label, value) pairs; a label is empty where the line goes on with the one above."""
    for network in explanation.prompt.networks:
        yield "Network", _network_line(network, explanation.networks)
    for embedding in explanation.embeddings:
        state = "missing in embeddings/" if embedding.vectors is None else f"found, {embedding.vectors} vectors"
        yield "Embedding", f"{embedding.name}: {state}"
    several = len(explanation.prompt.branches) > 1
    for number, (branch, chunks) in enumerate(zip(explanation.prompt.branches, explanation.chunks), 1):
        if several:
            yield f"Branch {number}", f"weight {branch.weight:g}"
        yield from _schedule_lines(branch)
        yield from _chunk_lines(chunks)
    if explanation.counted_by == ESTIMATE:
        yield "Counting", "no tokenizer is at hand: words and marks are counted, rare words take more tokens"
    else:
        yield "Counting", f"with the tokenizer of {explanation.counted_by}"


def _network_line(network: prompt.Network, files: dict[str, Path | None]) -> str:
    if not network.is_lora:
        return f"{network.kind} {network.name}: only lora is known here; it has no effect"
    te, unet = network.weights
    weights = f"{unet:g}" if te == unet else f"text encoder {te:g}, UNet {unet:g}"
    file = files[network.name]
    return f"{network.kind} {network.name} at {weights}: {f'found, {file}' if file else 'missing in models/'}"


def _schedule_lines(branch: prompt.Branch) -> Iterator[tuple[str, str]]:
    for entry in branch.schedule:
        label = "Text" if len(branch.schedule) == 1 else f"To step {entry.until}"
        yield label, entry.text.strip() or "(empty)"
        if any(weight != 1 and (text, weight) != prompt.BREAK for text, weight in entry.attention):
            runs = (
                "BREAK" if (text, weight) == prompt.BREAK else f"{text.strip()!r} × {weight:.4g}"
                for text, weight in entry.attention
            )
            yield "Weights", "  ".join(runs)


def _chunk_lines(chunks: list[Chunk]) -> Iterator[tuple[str, str]]:
    for number, chunk in enumerate(chunks, 1):
        yield f"Chunk {number}", f"{chunk.count} of {CHUNK} tokens: {chunk.text or '(empty)'}"
