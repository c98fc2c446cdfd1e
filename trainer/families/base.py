"""What every model family offers, and what a loaded base model and its text conditioning are.

torch, diffusers and transformers are imported inside the functions that use them: listing the families
must cost nothing, since the command line and the studio do it to fill their choices.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer import blocks
from trainer.families import clip, layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from trainer.families.turns import Turns


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is told besides the picture: `hidden` [B, 77·n, D], and for SDXL `pooled` [B, P]."""

    hidden: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def to(self, device=None, dtype=None) -> Conditioning:
        pooled = None if self.pooled is None else self.pooled.to(device=device, dtype=dtype)
        return Conditioning(self.hidden.to(device=device, dtype=dtype), pooled)

    def tensors(self) -> dict[str, Tensor]:
        """What is there of it, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def rows(self, indices) -> Conditioning:
        """The examples at `indices` (int, slice, list or index tensor); always keeps the batch axis."""
        indices = [indices] if isinstance(indices, int) else indices
        return Conditioning(self.hidden[indices], None if self.pooled is None else self.pooled[indices])

    def without_inner_marks(self) -> Conditioning:
        """[B, 77·n, D] -> [B, 1 + 75·n + 1, D]: one start, all tokens, one end, as sd-scripts joins its chunks."""
        import torch

        chunks = self.hidden.unflatten(1, (-1, clip.LENGTH))
        tokens = chunks[:, :, 1:-1].flatten(1, 2)
        return Conditioning(torch.cat([chunks[:, 0, :1], tokens, chunks[:, -1, -1:]], dim=1), self.pooled)

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Joined along the batch. Raises ValueError for parts of different length: those are made equal
        with `chunks=` when tokenizing, because padding embeddings afterwards would not be the same thing."""
        import torch

        if len({part.hidden.shape[1] for part in parts}) > 1:
            raise ValueError("conditionings of different length: tokenize all texts with the same chunks=")
        pooled = None if parts[0].pooled is None else torch.cat([part.pooled for part in parts])
        return Conditioning(torch.cat([part.hidden for part in parts]), pooled)


@dataclass
class BaseModel:
    """One loaded base model: every weight frozen, every module in eval mode.

    `alphas_cumprod` [1000] float64 is the noise schedule ᾱ of the base; `is_shifted` where its files had another end.
    `path` is the single file or the diffusers folder; `vae_path` is set when the VAE came from elsewhere; `turns`
    where the parts share a card by turns.
    """

    family: Family
    name: str
    path: str
    unet: nn.Module
    vae: nn.Module
    text_encoders: list[nn.Module]
    tokenizers: list[Any]
    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"
    is_shifted: bool = False
    vae_path: str = ""
    turns: Turns | None = field(default=None, repr=False)
    _sha256: str = field(default="", repr=False)

    def modules(self) -> dict[str, nn.Module]:
        """The parts a LoRA may sit on, by component name: unet, text_encoder and for SDXL text_encoder_2."""
        return {"unet": self.unet, **dict(zip(self.family.text_components, self.text_encoders, strict=True))}

    @property
    def dtype(self) -> torch.dtype:
        """Of the frozen UNet weights (an attached LoRA keeps float32)."""
        return self.unet.conv_in.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where it works, and answers."""
        return self.turns.device if self.turns else self.unet.conv_in.weight.device

    def to(self, device) -> BaseModel:
        for module in (self.unet, self.vae, *self.text_encoders):
            module.to(device)
        return self

    def settle(self, device) -> BaseModel:
        """To the device, ready to render. Parts that would take too much of a card's memory take turns there."""
        import torch

        from trainer.families.turns import Turns, needed

        parts = (self.unet, self.vae, *self.text_encoders)
        if torch.device(device).type == "cuda":
            weights = sum(weight.nbytes for part in parts for weight in part.parameters())
            if needed(weights, torch.cuda.get_device_properties(device).total_memory):
                self.turns = Turns(parts, device)
                return self
        return self.to(device)

    def bring(self, *parts: nn.Module) -> None:
        """These parts are about to work: to the card with them, where they take turns."""
        if self.turns is not None:
            self.turns.bring(*parts)

    def sha256(self) -> str:
        """Of the single file, or of the weight files of the folder taken in the order of their names."""
        if not self._sha256:
            self._sha256 = hash_path(Path(self.path))
        return self._sha256

    def legacy_hash(self) -> str:
        """A1111's first name for a model, 8 digits from 64 KiB at 1 MiB; empty for a folder."""
        path = Path(self.path)
        if not path.is_file():
            return ""
        with open(path, "rb") as file:
            file.seek(0x100000)
            return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]

    @property
    def short_hash(self) -> str:
        """The first ten digits, as A1111 shows it and writes it into infotext."""
        return self.sha256()[:10]


WEIGHT_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt")


def hash_path(path: Path) -> str:
    """SHA-256 of a file's bytes, or of all weight files under a folder with their relative names."""
    digest = hashlib.sha256()
    if path.is_file():
        _feed(digest, path)
        return digest.hexdigest()
    for file in sorted(entry for entry in path.rglob("*") if entry.suffix in WEIGHT_SUFFIXES):
        digest.update(file.relative_to(path).as_posix().encode())
        _feed(digest, file)
    return digest.hexdigest()


def _feed(digest, path: Path) -> None:
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)


class Family(ABC):
    """Everything particular to one model family. Stateless: the loaded weights travel as a BaseModel."""

    name: ClassVar[str]
    title: ClassVar[str]
    resolution: ClassVar[int]
    max_clip_skip: ClassVar[int]
    text_components: ClassVar[tuple[str, ...]]
    lora_prefixes: ClassVar[dict[str, str]]
    base_model_version: ClassVar[str]  # ss_base_model_version, as sd-scripts writes it
    modelspec_architecture: ClassVar[str]
    vae_scaling_factor: ClassVar[float]
    zeros_empty_negative: ClassVar[bool] = False  # an empty negative prompt is zeros, not the text encoder's answer

    # ── words ───────────────────────────────────────────────────────────────────────────────────────

    def tokenize(
        self, model: BaseModel, texts: Sequence[str], chunks: int | None = None, cut: bool = False
    ) -> list[Tensor]:
        """One int64 tensor [B, n, 77] per tokenizer; long texts become chunks of 75 tokens.

        n is `chunks`, or as many as the longest text needs. With `cut`, as sd-scripts reads: chunks are filled to the
        last token, and a text that needs more loses its end. Without, as A1111 does: chunks end at commas, and a
        text that needs more raises ValueError: see `chunks_needed`.
        """
        import torch

        backtrack = {"backtrack": 0} if cut else {}
        split = [[clip.chunk_tokens(tokenizer, text, **backtrack) for text in texts] for tokenizer in model.tokenizers]
        if cut:
            split = [[rows[:chunks] for rows in part] for part in split]
        needed = max((len(rows) for part in split for rows in part), default=1)
        if chunks is not None and needed > chunks:
            raise ValueError(f"a text needs {needed} chunks of 75 tokens, more than the {chunks} asked for")
        tokens = []
        for tokenizer, part in zip(model.tokenizers, split, strict=True):
            empty = clip.wrap(tokenizer, [])
            rows = [rows + [empty] * ((chunks or needed) - len(rows)) for rows in part]
            tokens.append(torch.tensor(rows, dtype=torch.int64).view(len(texts), chunks or needed, clip.LENGTH))
        return tokens

    def chunks_needed(self, model: BaseModel, texts: Sequence[str]) -> int:
        """How many chunks of 75 tokens the longest of `texts` takes (at least 1)."""
        return max((len(clip.chunk_tokens(t, text)) for t in model.tokenizers for text in texts), default=1)

    @abstractmethod
    def encode(self, model: BaseModel, tokens: Sequence[Tensor], clip_skip: int = 1) -> Conditioning:
        """Tokens [B, n, 77] per tokenizer -> Conditioning [B, 77·n, D]. Differentiable. `clip_skip` counts as
        A1111 does (1 = the last layer); families with a fixed rule ignore it."""

    def encode_captions(
        self, model: BaseModel, texts: Sequence[str], clip_skip: int = 1, chunks: int | None = None
    ) -> Conditioning:
        """Texts -> Conditioning, without gradients, on the text encoders' device."""
        import torch

        with torch.no_grad():
            return self.encode(model, self.tokenize(model, texts, chunks), clip_skip)

    # ── pictures ────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def predict(
        self, model: BaseModel, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning, sizes: Tensor | None
    ) -> Tensor:
        """The UNet's prediction for `noisy` latents [B, 4, h, w] at `timesteps` [B] (whole or fractional,
        0…999), in the dtype of `noisy`.

        `sizes` [B, 6] are SDXL's size conditioning in pixels: original height, width, crop top, left, target
        height, width. SD 1.5 ignores it.
        """

    def encode_images(self, model: BaseModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels [B, 3, H, W] in [-1, 1] -> mean and standard deviation of the latents [B, 4, H/8, W/8],
        float32, both already multiplied with the VAE's scaling factor. No gradients. See `_finite`."""
        scale = model.vae.config.scaling_factor
        model.bring(model.vae)

        def encode(weight: Tensor) -> tuple[Tensor, Tensor]:
            posterior = model.vae.encode(pixels.to(weight.device, weight.dtype)).latent_dist
            return posterior.mean.float() * scale, posterior.std.float() * scale

        return _finite(model.vae, encode)

    def decode(self, model: BaseModel, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> pixels [B, 3, 8h, 8w], float32, about [-1, 1] and not clamped. See
        `_finite`."""
        scale = model.vae.config.scaling_factor
        model.bring(model.vae)

        def decode(weight: Tensor) -> tuple[Tensor, ...]:
            scaled = latents.to(weight.device, torch.float32) / scale
            return (model.vae.decode(scaled.to(weight.dtype)).sample.float(),)

        import torch

        return _finite(model.vae, decode)[0]

    # ── LoRA ────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def kohya_name(self, component: str, module_path: str, unet: nn.Module | None = None) -> str:
        """The name of a module in a kohya LoRA file, without `.lora_down.weight`.

        `unet` is needed only where block numbers depend on the architecture and it is not the full-size one.
        """

    def lora_targets(self, component: str, module: nn.Module) -> list[str]:
        """Dotted paths of the modules that kohya trains, of a module without adapters.

        In the UNet every linear and 1×1 convolution inside a Transformer2DModel (attention projections,
        feed-forward, proj_in, proj_out); in CLIP the attention projections and the MLP.
        """
        return _unet_targets(module) if component == "unet" else clip.lora_targets(module)

    def conv_targets(self, component: str, module: nn.Module) -> list[str]:
        """Dotted paths of what kohya trains beyond that with `conv_dim`: every convolution and linear of the UNet's
        resnets, down- and upsamplers."""
        return _unet_convolutions(module) if component == "unet" else []

    def block(self, component: str, module_path: str, unet: nn.Module) -> str:
        """The module's block as LoRA makers name it: IN04, MID, OUT11; BASE for text encoders."""
        if component != "unet":
            return blocks.TEXT
        return blocks.block_of(layout.unet_name(module_path, layout.Blocks.of(unet)))


def _finite(vae: nn.Module, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What a VAE says. Where half precision overflows, the VAE goes to float32 for good and is asked again, as A1111
    does: its later answers, and the cache that they go into, are right without anyone's doing."""
    import torch

    weight = vae.encoder.conv_in.weight
    with torch.no_grad():
        found = compute(weight)
        if weight.dtype != torch.float32 and not all(tensor.isfinite().all() for tensor in found):
            found = compute(vae.float().encoder.conv_in.weight)
    return found


def _unet_targets(unet: nn.Module) -> list[str]:
    from diffusers.models.transformers.transformer_2d import Transformer2DModel
    from torch import nn

    def fits(child: nn.Module) -> bool:
        return isinstance(child, nn.Linear) or (isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1))

    return [
        f"{path}.{name}"
        for path, block in unet.named_modules()
        if isinstance(block, Transformer2DModel)
        for name, child in block.named_modules()
        if fits(child)
    ]


def _unet_convolutions(unet: nn.Module) -> list[str]:
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.models.upsampling import Upsample2D
    from torch import nn

    return [
        f"{path}.{name}"
        for path, block in unet.named_modules()
        if type(block) in (ResnetBlock2D, Downsample2D, Upsample2D)
        for name, child in block.named_modules()
        if isinstance(child, (nn.Linear, nn.Conv2d))
    ]
