"""Cells to pictures: one set of base weights in memory; changing the epoch swaps only the LoRA's weights.

The way is A1111's: its prompt grammar, samplers, schedule types, noise and clip skip, so that the same LoRA,
prompt and seed show there what they show here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from trainer import families, kohya
from trainer.adapters import Adapter
from trainer.cells import Cell
from trainer.config import TrainConfig
from trainer.environment import DTYPES, require_precision, use_attention
from trainer.errors import UserError
from trainer.families.base import BaseModel, Conditioning
from trainer.run import Epoch
from trainer.webui import encode, infotext, noise, prompt, samplers

NOISE_SOURCE = "NV"  # what A1111 draws on an NVIDIA card, reproduced on any machine


def load_base(config: TrainConfig, device: str) -> BaseModel:
    """The base of a run, in its precision, ready to render."""
    require_precision(config.model.precision, device)
    dtype = DTYPES[config.model.precision]
    model = families.load(config.model.base, dtype=dtype, device=device, vae=config.model.vae)
    if config.model.no_half_vae:
        model.vae.float()
    use_attention(model.unet, config.model.attention)
    return model


@dataclass(frozen=True)
class Branch:
    """One side of an AND: its weight, and the conditioning in force at each model call."""

    weight: float
    conditionings: list[Conditioning]  # one row each
    at: list[int]  # model call -> index into `conditionings`

    def now(self, call: int) -> Conditioning:
        return self.conditionings[self.at[min(call, len(self.at) - 1)]]


class Renderer:
    """Renders cells of one LoRA file at a time."""

    def __init__(self, model: BaseModel, batch_size: int):
        self.model, self.batch_size = model, batch_size
        self._adapter: Adapter | None = None
        self._file: Path | None = None
        self._strength = 1.0
        self._texts: dict[tuple, Conditioning] = {}

    def use(self, lora: Path | None, strength: float) -> None:
        """Put the LoRA in this file on the base; None is the base alone."""
        if lora == self._file and strength == self._strength:
            return
        self._texts.clear()  # a LoRA may change what the text encoders say
        if lora is not None and lora != self._file:
            tensors = kohya.read(lora).tensors
            if self._adapter is None:
                self._adapter = Adapter.from_file(self.model, tensors)
            else:
                self._adapter.load(tensors)
        if self._adapter is not None:
            self._adapter.set_strength(strength if lora is not None else 0.0)
        self._file, self._strength = lora, strength

    def batches(self, places: list) -> Iterator[list]:
        """Cut places of one row into batches that can share a forward pass: same size, sampler, steps and CFG."""

        def shape(place) -> tuple:
            cell = place.cell
            return (cell.width, cell.height, cell.sampler, cell.steps, cell.cfg_scale, cell.clip_skip)

        for _, group in groupby(sorted(places, key=shape), key=shape):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    @torch.no_grad()
    def render(self, cells: list[Cell]) -> list:
        """One PIL picture per cell. All cells share size, sampler, steps, CFG scale and clip skip."""
        first = cells[0]
        if first.width % 8 or first.height % 8:
            raise UserError(f"A picture of {first.width}×{first.height} cannot be rendered: use multiples of 8.")
        device, model_sigmas = self.model.device, samplers.model_sigmas(self.model.alphas_cumprod)
        plan = samplers.plan(first.sampler, None, model_sigmas, first.steps, sdxl=self.model.family.name == "sdxl")
        shape = (4, first.height // 8, first.width // 8)
        seeds = [cell.seed for cell in cells]
        stream = noise.NoiseSource(shape, seeds, NOISE_SOURCE, device=device)
        start = plan.start(stream.initial().to(device))
        if plan.sampler.noise == "brownian":
            stream = noise.BrownianNoise(shape, seeds, plan.tree, NOISE_SOURCE, device=device)
        latents = plan.run(Guided(self, cells, plan, model_sigmas), start, stream)
        # One by one: a picture's pixels must not depend on who else is in the batch, and memory stays low.
        return [_picture(self.model.family.decode(self.model, row[None])[0]) for row in latents]

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────

    def branches(self, text: str, cell: Cell, calls: int) -> list[Branch]:
        """What a prompt says at each of the sampler's model calls: its AND branches with their schedules."""
        made = []
        for branch in prompt.parse(text, calls).branches:
            conditionings = [self.encode(entry.attention, cell.clip_skip) for entry in branch.schedule]
            made.append(Branch(branch.weight, conditionings, [branch.index_at(call) for call in range(calls)]))
        return made

    def negative(self, cell: Cell, calls: int) -> Branch:
        branch = self.branches(cell.negative, cell, calls)[0]
        if cell.negative.strip() or not self.model.family.zeros_empty_negative:
            return branch
        said = branch.conditionings[0]
        zeros = Conditioning(torch.zeros_like(said.hidden), torch.zeros_like(said.pooled))
        return Branch(branch.weight, [zeros] * len(branch.conditionings), branch.at)

    def encode(self, attention: prompt.Attention, clip_skip: int) -> Conditioning:
        """Weighted text in chunks of 75 tokens, as A1111 joins them. One row [1, 77·n, D]."""
        key = (attention, clip_skip)
        if key not in self._texts:
            self._texts[key] = condition(self.model, attention, clip_skip)
        return self._texts[key]


class Guided:
    """The denoiser that a sampler sees: classifier-free guidance over the cells' prompts and negatives."""

    def __init__(self, renderer: Renderer, cells: list[Cell], plan: samplers.Plan, model_sigmas: list[float]):
        self.model, self.plan, self.model_sigmas = renderer.model, plan, model_sigmas
        self.scale = cells[0].cfg_scale
        calls = plan.sampler.model_calls(cells[0].steps)
        self.prompts = [renderer.branches(cell.prompt, cell, calls) for cell in cells]
        self.negatives = [renderer.negative(cell, calls) for cell in cells]
        side = (cells[0].height, cells[0].width)
        self.sizes = torch.tensor([[*side, 0, 0, *side]], device=self.model.device)
        self.call = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Predicted x0 for noisy latents x [B, 4, h, w] at σ [B]: uncond + scale · Σ weight · (cond − uncond)."""
        # Every row of the forward pass: which cell it belongs to, its weight, and what it is told.
        positive = ((cell, branch) for cell, said in enumerate(self.prompts) for branch in said)
        rows = [(cell, branch.weight, branch.now(self.call)) for cell, branch in positive]
        if self.scale != 1:
            rows += [(cell, None, said.now(self.call)) for cell, said in enumerate(self.negatives)]
        self.call += 1
        denoised = self._denoise(x, sigma, rows)
        if self.scale == 1:
            return self._sum(x, rows, denoised, torch.zeros_like(x), 1.0)
        count = len(rows) - len(x)
        return self._sum(x, rows[:count], denoised[:count], torch.stack(denoised[count:]), self.scale)

    def _sum(self, x: Tensor, rows: list, denoised: list[Tensor], base: Tensor, scale: float) -> Tensor:
        result = base.clone()
        for (cell, weight, _), value in zip(rows, denoised):
            result[cell] += scale * weight * (value - base[cell])
        return result

    def _denoise(self, x: Tensor, sigma: Tensor, rows: list) -> list[Tensor]:
        """x0 of each row [4, h, w]; rows whose prompts have the same number of chunks share a forward pass."""
        made: dict[int, Tensor] = {}
        by_length: dict[int, list[int]] = {}
        for index, (_, _, conditioning) in enumerate(rows):
            by_length.setdefault(conditioning.hidden.shape[1], []).append(index)
        for indices in by_length.values():
            cells = [rows[index][0] for index in indices]
            conditioning = Conditioning.cat([rows[index][2] for index in indices])
            for index, value in zip(indices, self._predict(x[cells], sigma[cells], conditioning)):
                made[index] = value
        return [made[index] for index in range(len(rows))]

    def _predict(self, x: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's answer as x0, by the prediction type's definition at noise level σ (x = x0 + σ·ε)."""
        model, wide = self.model, sigma.view(-1, 1, 1, 1)
        timesteps = samplers.times(self.model_sigmas, sigma, self.plan.sampler.quantize)
        scaled = (x / (wide**2 + 1).sqrt()).to(model.dtype)
        sizes = self.sizes.expand(len(x), -1)
        said = model.family.predict(model, scaled, timesteps, conditioning.to(dtype=model.dtype), sizes).float()
        if model.prediction_type == "epsilon":
            return x - wide * said
        return x / (wide**2 + 1) - said * wide / (wide**2 + 1).sqrt()


def condition(model: BaseModel, attention: prompt.Attention, clip_skip: int) -> Conditioning:
    """Text with weights -> conditioning [1, 77·n, D], each text encoder's states weighted on their own."""
    first = model.tokenizers[0]
    chunks = prompt.chunks(
        attention,
        lambda text: first(text, add_special_tokens=False, truncation=False, verbose=False).input_ids,
        bos=first.bos_token_id,
        eos=first.eos_token_id,
    )
    tokens = [
        torch.tensor([[chunk.padded_with(tokenizer.pad_token_id) for chunk in chunks]], device=model.device)
        for tokenizer in model.tokenizers
    ]
    said = model.family.encode(model, tokens, clip_skip)
    if all(weight == 1 for chunk in chunks for weight in chunk.weights):
        return said
    widths = [encoder.config.hidden_size for encoder in model.text_encoders]
    parts = said.hidden.view(len(chunks), -1, said.hidden.shape[-1]).split(widths, dim=-1)
    weighted = torch.cat([encode.emphasize(part, chunks) for part in parts], dim=-1)
    return Conditioning(encode.join(weighted), said.pooled)


def _picture(pixels: Tensor):
    """[3, H, W] in [-1, 1] -> PIL, rounded the way A1111 does (×255, truncated)."""
    from PIL import Image

    values = ((pixels.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
    return Image.frombytes("RGB", (values.shape[1], values.shape[0]), values.numpy().tobytes())


def infotext_of(cell: Cell, model: BaseModel, epoch: Epoch | None) -> str:
    """What A1111 would write for this picture; dropped into its PNG Info it gives the same settings."""
    sampler, schedule = samplers.resolve(cell.sampler)
    lora = f" <lora:{epoch.path.stem}:{cell.strength:g}>" if epoch else ""
    settings = {
        "Steps": cell.steps,
        "Sampler": sampler.label,
        "Schedule type": schedule,
        "CFG scale": float(cell.cfg_scale),
        "Seed": cell.seed,
        "Size": f"{cell.width}x{cell.height}",
        "Model hash": model.short_hash,
        "Model": model.name,
        "Clip skip": cell.clip_skip if cell.clip_skip > 1 else None,
        "RNG": NOISE_SOURCE,
        "Lora hashes": f"{epoch.path.stem}: {cell.lora[:12]}" if epoch else None,
    }
    return infotext.write(infotext.Infotext(cell.prompt + lora, cell.negative, infotext.ordered(settings)))
