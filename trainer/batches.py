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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trainer import augment, environment
from trainer import noise as noises
from trainer.augment import Variant
from trainer.config import DataConfig, TrainConfig
from trainer.dataset import buckets, wording
from trainer.errors import UserError
from trainer.examples import Example
from trainer.families.base import BaseModel, Conditioning
from trainer.families.clip import WORDS

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
    weights: Tensor  # [B] float32: how much each picture counts
    masks: Tensor | None = None  # [B, 1, h, w] float32 in [0, 1]: what of each picture is learned

    def __len__(self) -> int:
        return len(self.captions)

    def tensors(self) -> dict[str, Tensor]:
        """All but the captions, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def to(self, device: torch.device) -> Batch:
        """On the device, without waiting for what it is at."""
        return replace(self, **{name: environment.upload(value, device) for name, value in self.tensors().items()})


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
    """The cached latents of each version of each example, read from disk when asked for: memory does not grow with
    the set."""

    def __init__(self, store: Store, keys: dict[tuple[int, int], str]):
        self._store, self._keys = store, keys

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        """(example, variant) -> {"mean": [4, h, w], "std": [4, h, w]}, float32 on the CPU, scaled; and with masks
        "mask" [1, h, w]."""
        return self._store.get(self._keys[place])


@dataclass(frozen=True)
class Share:
    """Which part of the work one of several processes takes, and how it waits for the others."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


def cache_latents(
    model: BaseModel,
    examples: list[Example],
    settings: DataConfig,
    folder: Path,
    report: Report,
    share: Share = Share(),  # noqa: B008
) -> Latents:
    """Mean and standard deviation of the latents of each version of each picture, from the cache or encoded now.

    Keyed by the picture's bytes, its crop, mask and colours and the VAE, so a changed picture or another VAE can
    never meet stale latents. Raises UserError when the VAE gives non-finite latents, naming the picture.
    """
    folder = folder / f"latents-{weights_hash(model.vae)[:16]}"
    masked = bool(settings.alpha_mask or settings.mask_folder)
    work, keys = {}, {}
    for index, example in enumerate(examples):
        for number, variant in enumerate(augment.variants(example, settings)):
            keys[index, number] = key = _variant_key(example, variant, masked)
            work[key] = (example, variant)
    store = Store(folder)
    missing = {key: entry for key, entry in work.items() if key not in store}
    store.add(_encode(model, dict(list(missing.items())[share.index :: share.count]), masked, report))
    share.wait()
    if share.count > 1:
        # What the others made, and on a host that does not share this folder, the rest made here too.
        store = Store(folder)
        store.add(_encode(model, {key: entry for key, entry in work.items() if key not in store}, masked, report))
    return Latents(store, keys)


def _variant_key(example: Example, variant: Variant, masked: bool) -> str:
    changes = [variant] if variant != Variant(variant.placement) else []
    return content_key(example.digest, variant.placement, *changes, *(["mask", example.mask_digest] * masked))


def _encode(
    model: BaseModel, missing: Mapping[str, tuple[Example, Variant]], masked: bool, report: Report
) -> Iterator[tuple[str, dict]]:
    for done, (key, (example, variant)) in enumerate(missing.items()):
        report("Encoding pictures", done, len(missing))
        pixels = augment.load_pixels(example, variant)[None].to(model.vae.device, model.vae.dtype)
        with torch.no_grad():
            mean, std = model.family.encode_images(model, pixels)
        if not (mean.isfinite().all() and std.isfinite().all()):
            raise UserError(f"The VAE gave no finite latents for {example.path}: give another one with model.vae.")
        mask = {"mask": augment.load_mask(example, variant)} if masked else {}
        yield key, {"mean": mean[0].cpu(), "std": std[0].cpu(), **mask}
    if missing:
        report("Encoding pictures", len(missing), len(missing))


class CaptionEncoder:
    """Conditioning of captions. Frozen text encoders answer from the cache where captions repeat."""

    def __init__(self, model: BaseModel, config: TrainConfig, examples: list[Example], folder: Path):
        self.model, self.clip_skip = model, config.model.clip_skip
        self.max_tokens = config.data.max_tokens
        texts = list(dict.fromkeys(wording.fullest(example.caption, config.data) for example in examples))
        # All captions are padded to the same number of 75-token chunks, so that any batch can be stacked.
        self.chunks = self.max_tokens // WORDS or model.family.chunks_needed(model, texts)
        self.trains = config.trains_any(model.family.text_components)
        self._cached: dict[str, Conditioning] = {}
        if not self.trains and not wording.varies(config.data):
            self._fill([*texts, ""], folder)

    def _fill(self, texts: list[str], folder: Path) -> None:
        store = Store(folder / f"captions-{weights_hash(*self.model.text_encoders)[:16]}")
        parted = "filled" if self.max_tokens else "at commas"
        keys = {text: content_key(text, self.clip_skip, self.chunks, parted) for text in texts}
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
            known = Conditioning.cat([self._cached[text] for text in texts])
            pooled = None if known.pooled is None else environment.upload(known.pooled, device)
            return Conditioning(environment.upload(known.hidden, device), pooled)
        with torch.set_grad_enabled(self.trains and torch.is_grad_enabled()):
            return self._encode(texts)

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


# ── the batches of an epoch ─────────────────────────────────────────────────────────────────────────────


class Batches:
    """The batches of each epoch, in an order that depends on (seed, epoch) alone; and fixed ones to measure by."""

    def __init__(self, config: TrainConfig, examples: list[Example], latents: Mapping[tuple[int, int], dict] | Latents):
        self.config, self.examples, self.latents = config, examples, latents
        self._variants = [augment.variants(example, config.data) for example in examples]
        self._trained = [at for at, example in enumerate(examples) if example.role != "validation"]

    def plan(self, epoch: int) -> list[list[int]]:
        """Example indices of each batch. A bucket's last batch may be smaller; no example is dropped."""
        placements = [self.examples[at].placement for at in self._trained]
        repeats = [self.examples[at].repeats for at in self._trained]
        batches = buckets.plan(placements, repeats, self.config.loop.batch_size, self.config.loop.seed, epoch)
        return [[self._trained[at] for at in batch] for batch in batches]

    def make(self, epoch: int, position: int, indices: list[int], alphas_cumprod: Tensor) -> Batch:
        """The batch at `position` of `epoch`. The same arguments always give the same batch."""
        seed, steps = self.config.loop.seed, len(alphas_cumprod)
        numbers = [_stable_seed(seed, epoch, f"{position}.{slot}", index) for slot, index in enumerate(indices)]
        return _stacked([self._draw(epoch, number, index, steps) for number, index in zip(numbers, indices)])

    def fixed(self, indices: list[int], timestep: int) -> Batch:
        """The plain version of these examples under the same noise at every call, whatever the run's seed."""
        return _stacked([self._plain(index, timestep) for index in indices])

    def _draw(self, epoch: int, number: int, index: int, train_timesteps: int) -> dict:
        example, data, loss = self.examples[index], self.config.data, self.config.loss
        variant = random.Random(_stable_seed(number, "variant")).randrange(len(self._variants[index]))
        latents = self.latents[index, variant]
        generator = torch.Generator().manual_seed(number)
        mean = latents["mean"]
        sample = mean + latents["std"] * torch.randn(mean.shape, generator=generator)
        noise = torch.randn(mean.shape, generator=generator)
        timestep = torch.randint(loss.min_timestep, min(loss.max_timestep, train_timesteps), (), generator=generator)

        def generators(name: str) -> torch.Generator:
            return torch.Generator().manual_seed(_stable_seed(number, name))

        noise = noises.shaped(noise, loss, generators)
        return {
            "latents": sample,
            "noise": noise,
            "added": noises.perturbed(noise, loss, generators),
            "timesteps": timestep,
            "captions": wording.for_step(example.caption, data, number, epoch),
            **self._about(index, variant, latents),
        }

    def _plain(self, index: int, timestep: int) -> dict:
        example, latents = self.examples[index], self.latents[index, 0]
        generator = torch.Generator().manual_seed(_stable_seed(example.digest, timestep))
        noise = torch.randn(latents["mean"].shape, generator=generator)
        return {
            "latents": latents["mean"],
            "noise": noise,
            "added": noise,
            "timesteps": torch.tensor(timestep),
            "captions": wording.fullest(example.caption, self.config.data),
            **self._about(index, 0, latents),
        }

    def _about(self, index: int, variant: int, latents: dict[str, Tensor]) -> dict:
        example = self.examples[index]
        width, height = example.placement.bucket
        sizes = (example.height, example.width, *self._variants[index][variant].origin, height, width)
        weight = self.config.loss.prior_weight if example.role == "regularisation" else 1.0
        return {
            "sizes": torch.tensor(sizes),
            "weights": torch.tensor(weight),
            **({"masks": latents["mask"]} if "mask" in latents else {}),
        }


def _stacked(rows: list[dict]) -> Batch:
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Batch(**{name: values if name == "captions" else torch.stack(values) for name, values in columns.items()})


def _stable_seed(*parts: object) -> int:
    """63 bits from the parts' text: the same on every machine and in every process."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "big") >> 1
