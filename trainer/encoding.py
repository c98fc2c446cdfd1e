"""Captions as the UNet is given them, with the text encoders on the device no longer than they are needed.

Trained text encoders answer in every step. Frozen ones answer beforehand, and leave the device then: once for all
where captions never change, kept on disk; a hundred captions ahead of the steps where they are shuffled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from trainer import environment
from trainer.batches import Store, content_key, weights_hash
from trainer.config import TrainConfig
from trainer.dataset import wording
from trainer.examples import Example
from trainer.families.base import BaseModel, Conditioning
from trainer.families.clip import WORDS
from trainer.families.turns import Turns

AHEAD = 128  # captions encoded before the steps that train on them: 40 MB of main memory for SDXL in bf16


class CaptionEncoder:
    """Conditioning of captions on `device`. `folder` keeps that of captions which never change."""

    def __init__(
        self, model: BaseModel, config: TrainConfig, examples: list[Example], folder: Path, device: torch.device
    ):
        self.model, self.clip_skip, self.device = model, config.model.clip_skip, device
        self.max_tokens = config.data.max_tokens
        texts = list(dict.fromkeys(wording.fullest(example.caption, config.data) for example in examples))
        # All captions are padded to the same number of 75-token chunks, so that any batch can be stacked.
        self.chunks = self.max_tokens // WORDS or model.family.chunks_needed(model, texts)
        self.trains = config.trains_any(model.family.text_components)
        self.is_cached = not self.trains and not wording.varies(config.data)  # the text encoders' work is done
        self._ahead: dict[tuple[str, ...], Conditioning] = {}
        self._keys: dict[str, str] = {}
        self._turns: Turns | None = Turns(model.text_encoders, device)
        self._folder = folder
        if self.is_cached:
            self.keep([*texts, ""])
        if self.trains:
            self._turns.bring(*model.text_encoders)
        if self.trains or self.is_cached:
            self._turns = None  # with the weights' places in main memory

    @cached_property
    def _store(self) -> Store:
        return Store(self._folder / f"captions-{weights_hash(*self.model.text_encoders)[:16]}")

    def keep(self, texts: Iterable[str]) -> None:
        """Encode captions that are asked for again and again, once for all. Trained text encoders change their mind."""
        if self._turns is None:
            return  # all are kept, or none
        parted = "filled" if self.max_tokens else "at commas"
        self._keys |= {text: content_key(text, self.clip_skip, self.chunks, parted) for text in texts}
        if missing := [(key, text) for text, key in self._keys.items() if key not in self._store]:
            with self._at_work(), torch.no_grad():
                self._store.add((key, _named(self._encode([text]))) for key, text in missing)

    def prepare(self, batches: Iterable[list[str]]) -> None:
        """Encode the captions of the batches that are trained next. What was prepared before is forgotten."""
        if self.is_cached or self.trains:
            return
        self._ahead.clear()
        with self._at_work(), torch.no_grad():
            self._ahead = {tuple(texts): self._encode(texts).to("cpu") for texts in batches}

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """The text encoders on the device, and in main memory again afterwards."""
        self._turns.bring(*self.model.text_encoders)
        yield
        self._turns.bring()

    def __call__(self, texts: list[str]) -> Conditioning:
        """Conditioning of B captions on the UNet's device; carries gradients when the text encoders are trained."""
        if (known := self._ahead.get(tuple(texts))) is None:
            if not all(text in self._keys for text in texts):
                with torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
                    return self._encode(texts).to(self.device)
            known = Conditioning.cat([self._kept(text) for text in texts])
        pooled = None if known.pooled is None else environment.upload(known.pooled, self.device)
        return Conditioning(environment.upload(known.hidden, self.device), pooled)

    def _kept(self, text: str) -> Conditioning:
        row = self._store.get(self._keys[text])
        return Conditioning(row["hidden"], row.get("pooled"))

    def _encode(self, texts: list[str]) -> Conditioning:
        family = self.model.family
        if self.max_tokens:
            tokens = family.tokenize(self.model, texts, self.chunks, cut=True)
            return family.encode(self.model, tokens, self.clip_skip).without_inner_marks()
        # Tags in another order may need a chunk more than they did as written.
        chunks = max(self.chunks, family.chunks_needed(self.model, texts))
        return family.encode(self.model, family.tokenize(self.model, texts, chunks), self.clip_skip)


def _named(conditioning: Conditioning) -> dict[str, Tensor]:
    named = {"hidden": conditioning.hidden.cpu()}
    if conditioning.pooled is not None:
        named["pooled"] = conditioning.pooled.cpu()
    return named
