"""From pictures to batches: a content-addressed cache on disk, and what each step draws from it.

Nothing here depends on what ran before: the order of examples depends on (seed, epoch) alone, and the noise,
time steps, tag order and dropout of an example on (seed, epoch, its place in the epoch). That is what makes a
killed and resumed run end with the same bytes as one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainer import noise as noises
from trainer.config import TrainConfig
from trainer.dataset import buckets, captions, images
from trainer.errors import UserError
from trainer.examples import Example
from trainer.families.base import BaseModel, Conditioning

CACHE_VERSION = 1  # raise when the meaning of cached rows changes
Report = Callable[[str, int, int], None]  # what is being done, how many are done, of how many


@dataclass(frozen=True)
class Batch:
    """What one forward pass trains on. B pictures of one bucket, latents of h × w = bucket / 8."""

    latents: Tensor  # [B, 4, h, w] float32, drawn from the VAE's posterior, scaled
    noise: Tensor  # [B, 4, h, w] float32: what the UNet is to find
    added: Tensor  # [B, 4, h, w] float32: what the picture is covered with, the same unless it is perturbed
    timesteps: Tensor  # [B] int64
    captions: list[str]  # as trained in this step: shuffled, or empty when dropped
    sizes: Tensor  # [B, 6] SDXL's time ids: original h, w; crop top, left; target h, w

    def __len__(self) -> int:
        return len(self.captions)


# ── the cache ───────────────────────────────────────────────────────────────────────────────────────────


class Store:
    """Tensors on disk under content keys, shared by all runs; Hugging Face datasets memory-maps them.

    Rows are added in shards (one folder each, moved into place when whole), so a kill loses only the shard
    being written and two runs never write the same file.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._rows: dict[str, tuple] = {}
        self._open_shards(self.folder.glob("shard-*"))

    def _open_shards(self, paths: Iterable[Path]) -> None:
        from datasets import load_from_disk

        for path in sorted(paths):
            try:
                shard = load_from_disk(str(path)).with_format("torch")
            except (OSError, ValueError):
                # A damaged shard only costs the time to make its rows again.
                shutil.rmtree(path, ignore_errors=True)
                continue
            for index, key in enumerate(shard.with_format(None)["key"]):
                self._rows[key] = (shard, index)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> dict[str, Tensor]:
        shard, index = self._rows[key]
        row = shard[index]
        return {name: value.reshape(*row[f"{name}_shape"].tolist()) for name, value in row.items() if _is_data(name)}

    def add(self, rows: Iterator[tuple[str, dict[str, Tensor]]]) -> None:
        """Write rows of (key, tensors) as one shard. float32 is kept exactly. No rows, no shard."""
        from datasets import Dataset, disable_progress_bars

        disable_progress_bars()  # the run has a bar of its own
        flat = []
        for key, tensors in rows:
            flat.append({"key": key})
            for name, tensor in tensors.items():
                flat[-1][name] = tensor.float().flatten().numpy()
                flat[-1][f"{name}_shape"] = list(tensor.shape)
        if not flat:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{uuid.uuid4().hex}.part"
        final = self.folder / f"shard-{uuid.uuid4().hex[:12]}"
        try:
            Dataset.from_list(flat).save_to_disk(str(temporary))
            temporary.rename(final)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"The cache {self.folder} cannot be written ({reason}): free some space.") from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._open_shards([final])


def _is_data(name: str) -> bool:
    return name != "key" and not name.endswith("_shape")


def weights_hash(*modules: torch.nn.Module) -> str:
    """SHA-256 of the weights themselves: the same VAE inside two checkpoints shares its cache."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def content_key(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(str(part) for part in (CACHE_VERSION, *parts)).encode()).hexdigest()


class Latents:
    """The cached latents of each example, read from disk when asked for: memory does not grow with the set."""

    def __init__(self, store: Store, keys: list[str]):
        self._store, self._keys = store, keys

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """{"mean": [4, h, w], "std": [4, h, w]}, float32 on the CPU, scaled."""
        return self._store.get(self._keys[index])


def cache_latents(model: BaseModel, examples: list[Example], folder: Path, report: Report) -> Latents:
    """Mean and standard deviation of each picture's latents, from the cache or encoded now.

    Keyed by the picture's bytes, its crop and the VAE, so a changed picture or another VAE can never meet stale
    latents. Raises UserError when the VAE gives non-finite latents, naming the picture.
    """
    store = Store(folder / f"latents-{weights_hash(model.vae)[:16]}")
    keys = [content_key(example.digest, example.placement) for example in examples]
    missing = [(key, example) for key, example in dict(zip(keys, examples)).items() if key not in store]
    store.add(_encode(model, missing, report))
    return Latents(store, keys)


def _encode(model: BaseModel, missing: list[tuple[str, Example]], report: Report) -> Iterator[tuple[str, dict]]:
    for done, (key, example) in enumerate(missing):
        report("Encoding pictures", done, len(missing))
        pixels = load_pixels(example)[None].to(model.vae.device, model.vae.dtype)
        with torch.no_grad():
            mean, std = model.family.encode_images(model, pixels)
        if not (mean.isfinite().all() and std.isfinite().all()):
            raise UserError(f"The VAE gave no finite latents for {example.path}: give another one with model.vae.")
        yield key, {"mean": mean[0].cpu(), "std": std[0].cpu()}
    if missing:
        report("Encoding pictures", len(missing), len(missing))


def load_pixels(example: Example) -> Tensor:
    """The picture as it is trained: scaled and cropped into its bucket. [3, H, W] in [-1, 1]."""
    from PIL import Image

    picture = images.open_rgb(example.path).resize(example.placement.scaled, Image.Resampling.LANCZOS)
    picture = picture.crop(example.placement.crop)
    values = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return values.reshape(picture.height, picture.width, 3).permute(2, 0, 1).float() / 127.5 - 1


class CaptionEncoder:
    """Conditioning of captions. Frozen text encoders answer from the cache where captions repeat."""

    def __init__(self, model: BaseModel, config: TrainConfig, examples: list[Example], folder: Path):
        self.model, self.clip_skip = model, config.model.clip_skip
        # All captions are padded to the same number of 75-token chunks, so that any batch can be stacked.
        self.chunks = model.family.chunks_needed(model, [example.caption for example in examples])
        self.trains = config.trains_any(model.family.text_components)
        self._cached: dict[str, Conditioning] = {}
        if not self.trains and not config.data.shuffle_tags:
            self._fill([example.caption for example in examples] + [""], folder)

    def _fill(self, texts: list[str], folder: Path) -> None:
        store = Store(folder / f"captions-{weights_hash(*self.model.text_encoders)[:16]}")
        keys = {text: content_key(text, self.clip_skip, self.chunks) for text in texts}
        missing = [(key, text) for text, key in keys.items() if key not in store]
        with torch.no_grad():
            store.add((key, _named(self._encode([text]))) for key, text in missing)
        for text, key in keys.items():
            row = store.get(key)
            self._cached[text] = Conditioning(row["hidden"], row.get("pooled"))

    @property
    def is_cached(self) -> bool:
        return bool(self._cached)

    def __call__(self, texts: list[str]) -> Conditioning:
        """Conditioning of B captions; carries gradients when the text encoders are trained."""
        if self.is_cached:
            device = next(self.model.unet.parameters()).device
            return Conditioning.cat([self._cached[text] for text in texts]).to(device)
        with torch.set_grad_enabled(self.trains):
            return self._encode(texts)

    def _encode(self, texts: list[str]) -> Conditioning:
        family = self.model.family
        tokens = family.tokenize(self.model, texts, self.chunks)
        return family.encode(self.model, tokens, self.clip_skip)


def _named(conditioning: Conditioning) -> dict[str, Tensor]:
    named = {"hidden": conditioning.hidden.cpu()}
    if conditioning.pooled is not None:
        named["pooled"] = conditioning.pooled.cpu()
    return named


# ── the batches of an epoch ─────────────────────────────────────────────────────────────────────────────


class Batches:
    """The batches of each epoch, in an order that depends on (seed, epoch) alone."""

    def __init__(self, config: TrainConfig, examples: list[Example], latents: Latents):
        self.config, self.examples, self.latents = config, examples, latents

    def plan(self, epoch: int) -> list[list[int]]:
        """Example indices of each batch. A bucket's last batch may be smaller; no example is dropped."""
        placements = [example.placement for example in self.examples]
        repeats = [example.repeats for example in self.examples]
        return buckets.plan(placements, repeats, self.config.loop.batch_size, self.config.loop.seed, epoch)

    def make(self, epoch: int, position: int, indices: list[int], alphas_cumprod: Tensor) -> Batch:
        """The batch at `position` of `epoch`. The same arguments always give the same batch."""
        steps = len(alphas_cumprod)
        rows = [self._draw(epoch, f"{position}.{slot}", index, steps) for slot, index in enumerate(indices)]
        latents, noise, added, timesteps, texts, sizes = zip(*rows)
        tensors = (torch.stack(part) for part in (latents, noise, added, timesteps))
        return Batch(*tensors, list(texts), torch.tensor(sizes))

    def _draw(self, epoch: int, place: str, index: int, train_timesteps: int) -> tuple:
        example, latents = self.examples[index], self.latents[index]
        number = _stable_seed(self.config.loop.seed, epoch, place, index)
        generator = torch.Generator().manual_seed(number)
        mean = latents["mean"]
        sample = mean + latents["std"] * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        loss = self.config.loss
        timestep = torch.randint(loss.min_timestep, min(loss.max_timestep, train_timesteps), (), generator=generator)

        def generators(name: str) -> torch.Generator:
            return torch.Generator().manual_seed(_stable_seed(number, name))

        noise = noises.shaped(noise, loss, generators)
        added = noises.perturbed(noise, loss, generators)
        caption = captions.for_step(
            example.caption,
            rng=random.Random(number),
            shuffle=self.config.data.shuffle_tags,
            keep_tokens=self.config.data.keep_tokens,
            dropout=self.config.data.caption_dropout,
        )
        left, top = example.placement.crop[:2]
        width, height = example.placement.bucket
        return sample, noise, added, timestep, caption, (example.height, example.width, top, left, height, width)


def _stable_seed(*parts: object) -> int:
    """63 bits from the parts' text: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
