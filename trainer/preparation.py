"""What a run needs before its first step, made in the order in which the device has room for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from trainer import checks, environment, families, kohya, lifetime, optimizers, processes, quantize
from trainer.adapters import Adapter, start_from
from trainer.batches import Latents, Share, cache_latents
from trainer.config import TrainConfig
from trainer.encoding import CaptionEncoder
from trainer.examples import Example, load_examples
from trainer.families.base import BaseModel
from trainer.files import write_json
from trainer.record import Recorder
from trainer.run import Run

CACHE = Path("runs") / ".cache"


@dataclass(frozen=True)
class Preparation:
    """Makes the parts of a run, and says in its record what there is to say. `stopping`: whether it is to stop."""

    run: Run
    config: TrainConfig
    accelerator: Accelerator
    recorder: Recorder
    stopping: Callable[[], bool]

    def examples(self) -> list[Example]:
        """The pictures with their captions. Raises UserError for settings that cannot be trained with."""
        examples = load_examples(self.config.data)
        checks.require(checks.check(self.config, examples))
        processes.require_shareable(self.config)
        optimizers.check_args(self.config.optimizer.name, self.config.optimizer.args)
        if self.accelerator.is_main_process:
            write_json(self.run.path / "dataset.json", [example.as_json() for example in examples])
        return examples

    def base(self) -> BaseModel:
        """The base model, frozen, in main memory; environment.json tells which it is."""
        settings = self.config.model
        self.recorder.state("preparing", f"Loading {settings.base}")
        device, dtype = self.accelerator.device, environment.DTYPES[settings.precision]
        # Into main memory: until training begins, the device holds only the part that is at work.
        with environment.weights_apart():
            model = families.load(
                settings.base,
                dtype=dtype,
                vae=settings.vae,
                prediction=settings.prediction,
                pure_noise=self.config.loss.zero_terminal_snr,
            )
        if settings.quantize != "none":
            quantize.pack(model.unet, settings.quantize, device)
        if settings.no_half_vae:
            model.vae.float()
        if said := environment.use_attention(model.unet, settings.attention):
            self.recorder.state("preparing", said)
        if settings.gradient_checkpointing:
            trains_text = self.config.trains_any(model.family.text_components)
            environment.use_checkpointing(model, trains_text, self.config.adapter.drops)
        if self.accelerator.is_main_process:
            about = environment.describe(model, device) | {"batches_per_update": self.batches_per_update()}
            write_json(self.run.path / "environment.json", about)
        return model

    def latents(self, model: BaseModel, examples: list[Example]) -> Latents:
        """The pictures encoded. The VAE's work is done then, and its memory is given up, on any device."""
        model.vae.to(self.accelerator.device)
        own = self.accelerator
        share = Share(own.process_index, own.num_processes, own.wait_for_everyone)
        latents = cache_latents(model, examples, self.config.data, CACHE, self._encoding, share)
        _give_up(model.vae)
        return latents

    def _encoding(self, message: str, done: int, total: int) -> None:
        self.recorder.preparing(message, done, total)
        if self.stopping():
            raise lifetime.Stopped

    def captions(self, model: BaseModel, examples: list[Example]) -> CaptionEncoder:
        """The text encoders on the device where they learn, waiting for their turn in main memory where they do not,
        and given up as well when all captions could be encoded now."""
        encode = CaptionEncoder(model, self.config, examples, CACHE, self.accelerator.device)
        if encode.is_cached:
            _give_up(*model.text_encoders)
        return encode

    def adapter(self, model: BaseModel) -> Adapter:
        """The base on the device, with the LoRA that learns on it."""
        settings, device = self.config.adapter, self.accelerator.device
        if processes.sharers() == 1:
            model.unet.to(device)
        adapter = Adapter.attach(
            model,
            settings,
            seed=self.config.loop.seed,
            trains=lambda component, block: self.config.learning_rate(component, block) > 0,
            dtype=torch.bfloat16 if self.config.model.full_bf16 else torch.float32,
        )
        if settings.start_from:
            path = Path(settings.start_from).expanduser()
            said = start_from(adapter, kohya.read(path).tensors, path, resize=settings.start_resize)
            self.recorder.state("preparing", said)
        if processes.sharers() > 1:
            # Block by block: the whole of the base never lies on one card.
            processes.share_out(model.unet, adapter.parameters(), device)
            model.unet.to(device)
        if self.config.model.compile and (said := environment.use_compile(model.unet)):
            self.recorder.state("preparing", said)
        return adapter

    def optimizer(self, adapter: Adapter):
        """accelerate's optimizer over the LoRA's weights, in groups that each have a learning rate of their own."""
        settings = self.config.optimizer
        groups = optimizers.grouped(adapter.groups(), self.config.learning_rate, settings.lora_plus_ratio)
        return self.accelerator.prepare(optimizers.build(settings.name, groups, settings.args))

    def batches_per_update(self) -> int:
        """A run keeps what it began with, so that it goes on the same with another number of processes."""
        begun = self.run.environment().get("batches_per_update")
        return begun or self.config.loop.gradient_accumulation * self.accelerator.num_processes


def _give_up(*modules: torch.nn.Module) -> None:
    for module in modules:
        module.to("meta")
    environment.release_memory()
