"""What a batch does to the LoRA: noise on its latents, the UNet's answer, the error, the gradients."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from trainer import losses
from trainer.batches import Batch
from trainer.checks.learning import loss_of_the_other_prediction
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.families.base import BaseModel, Conditioning
from trainer.graphs import Graphs


class Step:
    """The way of a batch through the base with its LoRA and back. Batches come on the device.

    Raises UserError for a setting of the loss that is made for bases of the other kind of prediction.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: BaseModel,
        encode: Callable[[list[str]], Conditioning],
        parameters: Sequence[nn.Parameter],
        accelerator: Accelerator,
    ):
        for wrong in loss_of_the_other_prediction(config.loss, model.prediction_type):
            raise UserError(str(wrong))
        self.settings, self.model, self.encode, self.accelerator = config.loss, model, encode, accelerator
        self.alphas_cumprod = model.alphas_cumprod.to(accelerator.device, torch.float32)
        records = config.model.cuda_graphs and accelerator.device.type == "cuda"
        self._graphs = Graphs(self._recorded, parameters) if records else None

    @property
    def is_recorded(self) -> bool:
        """Whether steps are replayed: gradients are then added up where they lie, and must be zeroed there."""
        return self._graphs is not None

    def backward(self, batch: Batch, seed: str) -> Tensor:
        """Add the gradients of Σ weight · error to what is there; returns that sum. Dropouts draw from `seed`."""
        if self._graphs is None:
            _seed(seed)
            return self._gradients(batch, self.encode(batch.captions))
        tensors = {**batch.tensors(), **self.encode(batch.captions).tensors()}
        self._graphs.prepare(tensors)
        _seed(seed)
        return self._graphs(tensors)

    def loss(self, batch: Batch) -> Tensor:
        """Weighted error of each picture of a batch, [B]."""
        return self._error(batch, self.encode(batch.captions))

    def _recorded(self, tensors: dict[str, Tensor]) -> Tensor:
        rest = dict(tensors)
        conditioning = Conditioning(rest.pop("hidden"), rest.pop("pooled", None))
        return self._gradients(Batch(captions=[], **rest), conditioning)

    def _gradients(self, batch: Batch, conditioning: Conditioning) -> Tensor:
        loss = (self._error(batch, conditioning) * batch.weights).sum()
        self.accelerator.backward(loss)
        return loss.detach()

    def _error(self, batch: Batch, conditioning: Conditioning) -> Tensor:
        timesteps, kind = batch.timesteps, self.model.prediction_type
        noisy = losses.add_noise(batch.latents, batch.added, self.alphas_cumprod, timesteps)
        # No autocast: the base is in its precision already, and autocast would compute every norm in float32.
        predicted = self.model.family.predict(self.model, noisy, timesteps, conditioning, batch.sizes)
        wanted = losses.target(batch.latents, batch.noise, self.alphas_cumprod, timesteps, kind)
        ratio = losses.snr(self.alphas_cumprod, timesteps)
        threshold = losses.threshold(self.settings, ratio, timesteps, len(self.alphas_cumprod))
        weight = losses.weight(self.settings, ratio, kind)
        return losses.error(self.settings, predicted, wanted, threshold, batch.masks) * weight


def _seed(words: str) -> None:
    """The adapter's dropouts draw from torch's own generators: on a resume they must draw the same again."""
    torch.manual_seed(random.Random(words).getrandbits(63))
