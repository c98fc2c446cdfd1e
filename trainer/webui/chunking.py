"""Weighted text in chunks of 75 tokens, as A1111 1.10 joins them, textual inversions in their places. No torch here."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.errors import UserError
from trainer.webui.prompt import BREAK, Attention

CHUNK = 75
COMMA_BACKTRACK = 20


@dataclass(frozen=True)
class Chunk:
    """77 token ids with their weights, begin and end marks included.

    `count` of them come from the prompt, the rest pads. `embeddings` are the (position, name) at which the
    vectors of a textual inversion replace the token embeddings; the ids there are 0.
    """

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    text: str
    count: int
    embeddings: tuple[tuple[int, str], ...] = ()

    def padded_with(self, pad: int) -> tuple[int, ...]:
        """The ids with another padding behind the end mark (0 for SDXL's second encoder and SD 2)."""
        end = self.ids.index(self.ids[-1], 1)
        return self.ids[: end + 1] + (pad,) * (len(self.ids) - end - 1)


def chunks(
    attention: Attention,
    tokenize: Callable[[str], Sequence[int]],
    *,
    bos: int = 49406,
    eos: int = 49407,
    embeddings: Mapping[str, int] | None = None,
    backtrack: int = COMMA_BACKTRACK,
) -> list[Chunk]:
    """Cut a prompt into chunks of 75 tokens and frame them, as A1111 joins them.

    `tokenize` gives the ids of a text without begin and end marks. When a chunk is full and the last comma is
    at most `backtrack` tokens behind, what follows the comma moves to the next chunk. `BREAK` pads the chunk.
    `embeddings` maps the name of a textual inversion to its number of vectors; the name is found by its
    tokens, longest first, so it is found wherever it stands and in either case.
    """
    builder = _Chunks(tokenize, bos, eos, embeddings or {}, backtrack)
    for run in attention:
        if run == BREAK:
            builder.close()
        else:
            builder.add(*run)
    return builder.finish()


@dataclass
class _Open:
    ids: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    embeddings: list[tuple[int, str]] = field(default_factory=list)


class _Chunks:
    def __init__(self, tokenize, bos: int, eos: int, embeddings: Mapping[str, int], backtrack: int):
        self.tokenize, self.bos, self.eos, self.backtrack = tokenize, bos, eos, backtrack
        self.comma = tuple(tokenize(","))
        named = [(tuple(tokenize(name)), name, size) for name, size in embeddings.items()]
        self.embeddings = sorted((entry for entry in named if entry[0]), key=lambda entry: -len(entry[0]))
        self.done: list[Chunk] = []
        self.open = _Open()
        self.last_comma = -1

    def add(self, text: str, weight: float) -> None:
        ids, texts = self._tokens(text)
        position = 0
        while position < len(ids):
            if ids[position : position + 1] == self.comma:
                self.last_comma = len(self.open.ids)
            elif self._may_backtrack():
                self._backtrack()
            if len(self.open.ids) == CHUNK:
                self.close()
            position += self._take(ids, texts, position, weight)

    def _tokens(self, text: str) -> tuple[tuple[int, ...], list[str]]:
        """The ids of a run, and the piece of text that each id stands for (at the first id of a word)."""
        ids = tuple(self.tokenize(text))
        pieces = re.findall(r"\s*[^\s,]+|\s*,|\s+$", text)
        split = [(piece, tuple(self.tokenize(piece))) for piece in pieces]
        if sum((piece_ids for _, piece_ids in split), ()) != ids:
            # Words that the tokenizer does not keep apart: the run is one piece.
            split = [(text, ids)]
        texts: list[str] = []
        for piece, piece_ids in split:
            if piece_ids:
                texts += [piece] + [""] * (len(piece_ids) - 1)
            elif texts:
                texts[-1] += piece
        return ids, texts

    def _take(self, ids: tuple[int, ...], texts: list[str], position: int, weight: float) -> int:
        """Put the token, or the embedding that is named here, into the open chunk; the tokens consumed."""
        for name_ids, name, size in self.embeddings:
            if ids[position : position + len(name_ids)] == name_ids:
                self._take_embedding(name, size, "".join(texts[position : position + len(name_ids)]), weight)
                return len(name_ids)
        self._append([ids[position]], [texts[position]], weight)
        return 1

    def _take_embedding(self, name: str, size: int, text: str, weight: float) -> None:
        if size > CHUNK:
            raise UserError(f"The embedding {name} has {size} vectors; a chunk has room for {CHUNK}.")
        if len(self.open.ids) + size > CHUNK:
            self.close()
        self.open.embeddings.append((len(self.open.ids) + 1, name))
        self._append([0] * size, [text] + [""] * (size - 1), weight)

    def _append(self, ids: list[int], texts: list[str], weight: float) -> None:
        self.open.ids += ids
        self.open.texts += texts
        self.open.weights += [weight] * len(ids)

    def _may_backtrack(self) -> bool:
        size = len(self.open.ids)
        return size == CHUNK and self.last_comma != -1 and size - self.last_comma <= self.backtrack

    def _backtrack(self) -> None:
        cut = self.last_comma + 1
        moved = self.open
        kept = [entry for entry in moved.embeddings if entry[0] <= cut]
        self.open = _Open(moved.ids[:cut], moved.weights[:cut], moved.texts[:cut], kept)
        self.close()
        late = [(position - cut, name) for position, name in moved.embeddings if position > cut]
        self.open = _Open(moved.ids[cut:], moved.weights[cut:], moved.texts[cut:], late)

    def close(self) -> None:
        """Pad the open chunk to 75 and frame it; the padding and the frame have weight 1."""
        full, pad = self.open, CHUNK - len(self.open.ids)
        ids = (self.bos, *full.ids, *[self.eos] * pad, self.eos)
        weights = (1.0, *full.weights, *[1.0] * pad, 1.0)
        text = "".join(full.texts).strip()
        self.done.append(Chunk(ids, weights, text, len(full.ids), tuple(full.embeddings)))
        self.open, self.last_comma = _Open(), -1

    def finish(self) -> list[Chunk]:
        if self.open.ids or not self.done:
            self.close()
        return self.done


def pad(chunks: Sequence[Chunk], size: int, *, bos: int = 49406, eos: int = 49407) -> list[Chunk]:
    """The chunks with empty ones behind them up to `size`, for prompts of different length in one batch."""
    empty = Chunk((bos, *[eos] * (CHUNK + 1)), (1.0,) * (CHUNK + 2), "", 0)
    return [*chunks, *[empty] * (size - len(chunks))]
