"""Cells to pictures: one set of base weights in memory, and in one batch as many LoRAs as it has pictures.

The way is A1111's: its prompt grammar, samplers, schedule types, noise and clip skip, so that the same LoRA,
prompt and seed show there what they show here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from trainer import families, hires, kohya, upscalers
from trainer.adapters import Adapter
from trainer.cells import Cell
from trainer.conditioning import condition
from trainer.config import TrainConfig
from trainer.environment import DTYPES, require_precision, use_attention
from trainer.errors import UserError
from trainer.families.base import BaseModel, Conditioning
from trainer.guidance import Branch, Carried, Guided, Pass
from trainer.run import Epoch
from trainer.shelf import Shelf, find_embeddings, missing_in, named_in, read_embedding
from trainer.stack import Lora, Loras, Stack, stackable, trains_text
from trainer.webui import infotext, noise, prompt, samplers


def load_base(config: TrainConfig, device: str) -> BaseModel:
    """The base of a run, in its precision, ready to render."""
    require_precision(config.model.precision, device)
    dtype = DTYPES[config.model.precision]
    settings, pure_noise = config.model, config.loss.zero_terminal_snr
    model = families.load(
        settings.base, dtype=dtype, vae=settings.vae, prediction=settings.prediction, pure_noise=pure_noise
    )
    if config.model.no_half_vae:
        model.vae.float()
    use_attention(model.unet, config.model.attention)
    return model.settle(device)


class Renderer:
    """Renders cells, each with the LoRAs that it asks for."""

    def __init__(self, model: BaseModel, batch_size: int, shelf: Shelf | None = None):
        self.model, self.batch_size, self.shelf = model, batch_size, shelf or Shelf()
        self.stack = Stack(model)
        self.model_sigmas = samplers.model_sigmas(model.alphas_cumprod)
        self._used: Path | None = None
        self._strength = 1.0
        self._alone: Adapter | None = None  # of a kind that cannot be stacked
        self._alone_file: Path | None = None
        self._texts: dict[tuple, Conditioning] = {}
        self._known: dict[str, Path] | None = None  # textual inversions: name -> file
        self._embeddings: dict[str, list[Tensor] | None] = {}
        self._upscalers: dict[str, upscalers.Network] = {}

    def use(self, lora: Path | None, strength: float) -> None:
        """The LoRA of cells that are rendered without naming one; None is the base alone."""
        self._used, self._strength = lora, strength

    # ── which LoRAs ─────────────────────────────────────────────────────────────────────────────────────

    def loras(self, cell: Cell, lora: Path | None, strength: float | None = None) -> Loras:
        """What a cell's pictures carry: the epoch, and what its prompt names with <lora:…>.

        Raises UserError when a file that the prompt names is missing.
        """
        weight = cell.strength if strength is None else strength
        own = (Lora(lora, weight, weight),) if lora is not None else ()
        named = ((*network.weights, path) for network, path in self.shelf.loras(cell.prompt))
        return own + tuple(Lora(path, unet, text) for text, unet, path in named)

    def batches(self, places: Sequence) -> Iterator[list]:
        """Cut places into batches that can share a forward pass: equal but for words, seed and LoRAs.

        Rows of the grid mix freely. Only a LoRA that cannot be stacked keeps to itself.
        """

        def shape(place) -> tuple:
            cell = place.cell
            how = (cell.width, cell.height, cell.sampler, cell.steps, cell.cfg_scale, cell.clip_skip)
            how += (cell.noise_source, cell.ensd, str(cell.eta), cell.emphasis, str(cell.hires))
            loras = dict.fromkeys([*self.loras(cell, place.lora), *self.loras(cell.second_pass, place.lora)])
            return (*how, *(str(one) for one in loras if not stackable(one.path)))

        for _, group in groupby(sorted(places, key=shape), key=shape):
            alike = list(group)
            for start in range(0, len(alike), self.batch_size):
                yield alike[start : start + self.batch_size]

    def carry(self, sets: Sequence[Loras]) -> list[int]:
        """Put these sets of LoRAs, one for each cell, on the base. Returns each cell's index into
        the stack, which holds equal sets once."""
        alone = {tuple(one for one in loras if not stackable(one.path)) for loras in sets}
        if len(alone) > 1 or len(next(iter(alone))) > 1:
            files = sorted({one.path.name for loras in alone for one in loras})
            raise UserError(f"{' and '.join(files)} cannot be rendered together: use one of them at a time.")
        self._carry_alone(next(iter(alone)))
        stacked = [tuple(one for one in loras if stackable(one.path)) for loras in sets]
        unique = list(dict.fromkeys(stacked))
        self.stack.carry(unique)
        return [unique.index(loras) for loras in stacked]

    def _carry_alone(self, loras: Loras) -> None:
        lora = loras[0] if loras else None
        if self._alone is not None and lora is None:
            self._alone.detach()
            self._alone = self._alone_file = None
        if lora is None:
            return
        if self._alone is None:
            self._alone = Adapter.from_file(self.model, kohya.read(lora.path).tensors)
        elif lora.path != self._alone_file:
            self._alone.load(kohya.read(lora.path).tensors)
        self._alone_file = lora.path
        self._alone.set_strength(lora.unet, lora.text_encoder)

    # ── pictures ────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def render(self, cells: Sequence[Cell], loras: Sequence[Path | None] | None = None) -> list:
        """One PIL picture per cell, from the LoRA file in `loras` at the cell's strength (None: the base).

        All cells are equal but for prompt, negative prompt, seed and LoRAs. Without `loras` all of them have what
        `use` was given.
        """
        first = cells[0]
        if first.width % 8 or first.height % 8:
            raise UserError(f"A picture of {first.width}×{first.height} cannot be rendered: use multiples of 8.")
        plan = self._plan(first.sampler, first.steps)
        one = Pass(plan, first.width, first.height, plan.sampler.model_calls(first.steps))
        latents = self._sample(cells, self._carried(cells, loras), one)
        if first.hires is not None:
            second = [cell.second_pass for cell in cells]
            latents = self._hires(second, self._carried(second, loras), one, latents)
        return [self.picture(row) for row in latents]

    def _carried(self, cells: Sequence[Cell], loras: Sequence[Path | None] | None) -> Carried:
        """What a pass over the cells carries, put on the base."""
        if loras is None:
            sets = [self.loras(cell, self._used, self._strength) for cell in cells]
        else:
            sets = [self.loras(cell, lora) for cell, lora in zip(cells, loras, strict=True)]
        return Carried(self.carry(sets), sets)

    def picture(self, latents: Tensor):
        """Latents [4, h, w] as a PIL picture. One by one: a picture's pixels must not depend on who else is in
        the batch, and memory stays low."""
        return _picture(self.model.family.decode(self.model, latents[None])[0])

    def _plan(self, sampler: str, steps: int, **options) -> samplers.Plan:
        sdxl = self.model.family.name == "sdxl"
        return samplers.plan(sampler, None, self.model_sigmas, steps, sdxl=sdxl, **options)

    def _sample(self, cells: Sequence[Cell], carried: Carried, how: Pass, latents: Tensor | None = None) -> Tensor:
        """Latents [B, 4, h, w] of a pass, from pure noise or from clean latents."""
        device, shape = self.model.device, (4, how.height // 8, how.width // 8)
        seeds, first, sampler = [cell.seed for cell in cells], cells[0], how.plan.sampler
        stream = noise.NoiseSource(shape, seeds, first.noise_source, ensd=first.ensd, device=device)
        start = how.plan.start(stream.initial().to(device), latents)
        if sampler.noise == "brownian" and how.plan.sigmas:
            stream = noise.BrownianNoise(shape, seeds, how.plan.tree, first.noise_source, device=device)
        own = {} if first.eta is None or sampler.eta is None else {"eta": first.eta}
        return how.plan.run(Guided(self, cells, carried, how), start, stream, **own)

    def _hires(self, cells: Sequence[Cell], carried: Carried, one: Pass, latents: Tensor) -> Tensor:
        """The second pass of the hires fix: upscaled, noised again by `denoise`, and sampled for `steps`.

        `cells` as that pass reads them."""
        wanted, first = cells[0].hires, cells[0]
        steps = wanted.steps or first.steps
        plan = self._plan(wanted.sampler or first.sampler, steps, denoise=wanted.denoise, hires=True)
        large = hires.enlarge(self, wanted, (first.width, first.height), latents)
        height, width = (8 * side for side in large.shape[2:])
        two = Pass(plan, width, height, plan.sampler.model_calls(steps), one.calls)
        return self._sample(cells, carried, two, large)

    def upscaler(self, name: str) -> upscalers.Network:
        """The network of an upscaler's model file, loaded once. Raises UserError when it is not there."""
        if name not in self._upscalers:
            self._upscalers[name] = upscalers.load_network(self.shelf.upscaler(name), self.model.device)
        return self._upscalers[name]

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────

    def branches(self, text: str, cell: Cell, how: Pass, carried: tuple[int, Loras]) -> list[Branch]:
        """What a prompt says at each of the sampler's model calls: its AND branches with their schedules."""
        made = []
        for branch in _parsed(text, how, cell.emphasis != "None").branches:
            attentions = [entry.attention for entry in branch.schedule]
            conditionings = [self.encode(one, cell.clip_skip, carried, cell.emphasis) for one in attentions]
            made.append(Branch(branch.weight, conditionings, [branch.index_at(call) for call in range(how.calls)]))
        return made

    def negative(self, cell: Cell, how: Pass, carried: tuple[int, Loras]) -> Branch:
        """The negative prompt, of which A1111 reads one branch; an empty one is zeros where the family wants it so."""
        branch = self.branches(cell.negative, cell, how, carried)[0]
        if cell.negative.strip() or not self.model.family.zeros_empty_negative:
            return branch
        usual = branch.conditionings[0]
        zeros = Conditioning(torch.zeros_like(usual.hidden), torch.zeros_like(usual.pooled))
        return Branch(branch.weight, [zeros] * len(branch.conditionings), branch.at)

    def encode(
        self, attention: prompt.Attention, clip_skip: int, carried: tuple[int, Loras], emphasis: str = "Original"
    ) -> Conditioning:
        """Weighted text in chunks of 75 tokens, as A1111 joins them. One row [1, 77·n, D].

        Computed once for each state of the text encoders: LoRAs that leave them alone share their texts.
        """
        index, loras = carried
        state = tuple((one.path, one.text_encoder) for one in loras if one.text_encoder and trains_text(one.path))
        key = (attention, clip_skip, emphasis, state)
        if key not in self._texts:
            embeddings = self.embeddings("".join(text for text, _ in attention))
            with self.stack.rows([index]):
                # Kept beside the model: many epochs times many prompts are too much for a small card.
                self._texts[key] = condition(self.model, attention, clip_skip, embeddings, emphasis).to("cpu")
        return self._texts[key].to(self.model.device)

    def embeddings(self, text: str) -> dict[str, list[Tensor]]:
        """The vectors of the textual inversions that a text names, by name; only those made for this kind of base.

        Others are passed over, as in A1111: their names are read as words.
        """
        if self._known is None:
            self._known = find_embeddings(self.shelf.embeddings)
        names = named_in(text, self._known)
        widths = [encoder.config.hidden_size for encoder in self.model.text_encoders]
        for name in names:
            if name not in self._embeddings:
                self._embeddings[name] = read_embedding(self._known[name], widths)
        return {name: self._embeddings[name] for name in names if self._embeddings[name] is not None}

    def unread(self, texts: Sequence[str]) -> list[str]:
        """Embeddings that these texts name and that are words here: not there, or made for another base."""
        text = "\n".join(texts)
        read, known = self.embeddings(text), self._known
        alien = [f"{name} (made for another base)" for name in named_in(text, known) if name not in read]
        return alien + [f"{name} (not found)" for name in missing_in(text, known)]


def _parsed(text: str, how: Pass, emphasis: bool) -> prompt.Prompt:
    steps = (how.calls, None) if how.before is None else (how.before, how.calls)
    return prompt.parse(text, *steps, emphasis=emphasis)


def _picture(pixels: Tensor):
    """[3, H, W] in [-1, 1] -> PIL, rounded the way A1111 does (×255, truncated)."""
    from PIL import Image

    values = ((pixels.clamp(-1, 1) + 1) / 2 * 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu()
    return Image.frombytes("RGB", (values.shape[1], values.shape[0]), values.numpy().tobytes())


def infotext_of(cell: Cell, renderer: Renderer, epoch: Epoch | None) -> str:
    """What A1111 would write for this picture; dropped into its PNG Info it gives the same settings.

    An embedding made for another base was read as words: it had no part in the picture, and is not listed.
    """
    model, read = renderer.model, renderer.embeddings("\n".join(cell.texts))
    sampler, schedule = samplers.resolve(cell.sampler)
    lora = f" <lora:{epoch.path.stem}:{cell.strength:g}>" if epoch else ""
    own = [("lora", epoch.path.stem, cell.lora[:12])] if epoch else []
    files = [*own, *(one for one in cell.files if one[0] != "embedding" or one[1] in read)]
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
        "ENSD": cell.ensd if cell.ensd and sampler.uses_ensd else None,
        "RNG": cell.noise_source if cell.noise_source != "GPU" else None,
        "Eta DDIM" if sampler.times == "ddim" else "Eta": cell.eta if cell.eta != sampler.eta else None,
        "Noise Schedule": "Zero Terminal SNR" if model.is_shifted else None,
        "Emphasis": cell.emphasis if cell.emphasis != "Original" else None,
        "Lora hashes": _hashes(files, "lora"),
        "TI hashes": _hashes(files, "embedding"),
        **(hires.settings(cell.hires, cell.sampler, lora) if cell.hires else {}),
    }
    return infotext.write(infotext.Infotext(cell.prompt + lora, cell.negative, infotext.ordered(settings)))


def _hashes(files: Sequence[tuple[str, str, str]], kind: str) -> str | None:
    return ", ".join(f"{name}: {digest}" for one, name, digest in files if one == kind) or None
