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

from trainer.errors import UserError
from trainer.families.tokens import Tokenizer, tokenizer
from trainer.webui import prompt
from trainer.webui.prompt import Chunk, Prompt

DEFAULT_BASE = "toybox/sd15"
ESTIMATE = "estimated"
EMBEDDING_FILES = (".safetensors", ".pt", ".bin")
_WORDS = re.compile(r"'(?:s|t|re|ve|m|ll|d)\b|[^\W\d_]+|\d|[^\s\w]+|_+", re.IGNORECASE)
_NAMED = re.compile(r"\bembedding:([\w.-]+)")


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
    known = find_embeddings(embeddings)
    texts = [branch.schedule[0].attention for branch in read.branches]
    used = _named(text, known)
    sizes = {one.name: one.vectors for one in used if one.vectors}
    chunks = [
        prompt.chunks(attention, counter.ids, bos=counter.bos, eos=counter.eos, embeddings=sizes)
        for attention in texts
    ]
    networks = {n.name: find_network(n.name, models) for n in read.networks if n.is_lora}
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


# ── files that a prompt names ───────────────────────────────────────────────────────────────────────────


def find_network(name: str, folder: Path) -> Path | None:
    """The LoRA file that `<lora:name>` means: by its file name without ending, anywhere below `folder`."""
    wanted = Path(name).name.lower()
    files = sorted(Path(folder).rglob("*.safetensors"))
    return next((path for path in files if path.stem.lower() == wanted), None)


def find_embeddings(folder: Path) -> dict[str, Path]:
    """Name -> file of every textual inversion below `folder`; a prompt names it by the file's name."""
    files = sorted(Path(folder).rglob("*")) if Path(folder).is_dir() else []
    return {path.stem: path for path in files if path.suffix.lower() in EMBEDDING_FILES}


def _named(text: str, known: dict[str, Path]) -> list[Embedding]:
    """Embeddings in the text: files by their names, and `embedding:name` (ComfyUI's way), which may be missing."""
    spoken = dict.fromkeys(_NAMED.findall(text))
    lower = {name.lower() for name in known}
    found = [
        Embedding(name, count_vectors(path))
        for name, path in known.items()
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE)
    ]
    return found + [Embedding(name, None) for name in spoken if name.lower() not in lower]


def count_vectors(path: Path) -> int:
    """How many token places an embedding takes. Raises UserError when the file is none.

    .safetensors holds a tensor [n, width] (`emb_params`, or `clip_l` and `clip_g` for SDXL); A1111's .pt holds
    `string_to_param`. Read weights-only, so that a file cannot run code.
    """
    shapes = _safetensors_shapes(path) if path.suffix.lower() == ".safetensors" else _pickled_shapes(path)
    sizes = [shape[0] if len(shape) == 2 else 1 for shape in shapes if len(shape) in (1, 2)]
    if not sizes:
        raise UserError(f"{path} is not a textual inversion: it holds no vectors. Take it out of the folder.")
    return max(sizes)


def _safetensors_shapes(path: Path) -> list[tuple[int, ...]]:
    from trainer.kohya import read_header

    return list(read_header(path).shapes.values())


def _pickled_shapes(path: Path) -> list[tuple[int, ...]]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each of them means the same to the owner
        raise UserError(f"{path} cannot be read as an embedding ({type(error).__name__}): get it again.") from error
    values = content.get("string_to_param", content) if isinstance(content, dict) else {}
    return [tuple(value.shape) for value in values.values() if isinstance(value, torch.Tensor)]


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
        yield f"Chunk {number}", f"{chunk.count} of {prompt.CHUNK} tokens: {chunk.text or '(empty)'}"
