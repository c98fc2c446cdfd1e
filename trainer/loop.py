"""The training loop: epochs of updates, each epoch saved as a finished LoRA file.

A run can be killed at any moment. What it needs to go on stands in state/, written after each epoch and on
stop, and everything random is drawn from (seed, epoch, place), so the resumed run makes the same tensors.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator

from trainer import environment, kohya, lifetime, optimizers, processes, schedules
from trainer.averages import Average
from trainer.batches import Batches
from trainer.checkpoint import Position, load_state, save_state
from trainer.config import TrainConfig
from trainer.dataset.names import count
from trainer.encoding import AHEAD
from trainer.errors import UserError
from trainer.preparation import Preparation
from trainer.record import Listener, Recorder
from trainer.run import Run
from trainer.sampling import sample
from trainer.step import Step
from trainer.validation import Validation


def train(run: Run, listener: Listener | None = None) -> None:
    """Train a run from where it stands (its beginning, a stop, a kill) to its end.

    Raises UserError, after marking the run as failed, for anything that its owner can mend.
    """
    config = run.config
    environment.require_precision(config.model.precision, environment.default_device())
    accelerator = processes.joined(config.model.precision)
    recorder = Recorder(run, accelerator.is_main_process, listener)
    with lifetime.held(run, accelerator), lifetime.outcome(recorder), lifetime.signals() as signals:
        recorder.state("preparing", "Reading pictures")
        Trainer(run, config, accelerator, recorder, signals).train()
    accelerator.end_training()


class Trainer:
    """Everything a run holds while it trains."""

    def __init__(self, run: Run, config: TrainConfig, accelerator: Accelerator, recorder: Recorder, signals: set[int]):
        self.run, self.config, self.accelerator, self.recorder = run, config, accelerator, recorder
        self.signals = signals
        self.started = time.time()
        prepare = Preparation(run, config, accelerator, recorder, self._is_asked_to_stop)
        self.examples = prepare.examples()
        self.model = prepare.base()
        latents = prepare.latents(self.model, self.examples)
        self.encode = prepare.captions(self.model, self.examples)
        self.batches = Batches(config, self.examples, latents)
        self.validation = Validation(self.examples, self.batches, config.loss)
        self.encode.keep(self.validation.captions)
        self.adapter = prepare.adapter(self.model)
        self.optimizer = prepare.optimizer(self.adapter)
        self.average = Average(self.adapter, config.loop.ema_decay)
        self.step = Step(config, self.model, self.encode, self.adapter.parameters(), accelerator)
        if config.model.cuda_graphs and not self.step.is_recorded:
            recorder.state("preparing", "model.cuda_graphs has no effect here: it needs an NVIDIA card.")
        self.position = self._restore(prepare.batches_per_update())
        self._pending: tuple[int, dict[str, float], environment.Figures] | None = None
        self._asked = self._agreed = False  # whether this process was asked to stop; whether all know that one was

    def _restore(self, batches_per_update: int) -> Position:
        state = load_state(self.run.path / "state")
        self.optimizer.train()
        if self.accelerator.is_main_process:
            self.run.forget_metrics(after=state["position"].step if state else 0)
        if state is None:
            return Position(group=batches_per_update)
        self.adapter.load_exact(state["adapter"])
        self.average.load(state["average"])
        optimizers.resume(self.optimizer, state["optimizer"])
        if state["scaler"] and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        position = state["position"]
        return position if position.group else replace(position, group=batches_per_update)

    # ── train ───────────────────────────────────────────────────────────────────────────────────────────

    @property
    def epochs(self) -> int:
        return -(-self.steps // self.updates_per_epoch)

    @cached_property
    def updates_per_epoch(self) -> int:
        return len(self._updates(0))

    @property
    def steps(self) -> int:
        return self.config.loop.max_steps or self.config.loop.epochs * self.updates_per_epoch

    def train(self) -> None:
        epoch, step = self.position.epoch, self.position.step
        self.recorder.state("training", epochs=self.epochs, steps=self.steps, epoch=epoch, step=step)
        while self.position.epoch < self.epochs:
            if not self._epoch(self.position.epoch):
                self.recorder.state("stopped", f"Stopped at step {self.position.step}; resume goes on from there.")
                return
        self.recorder.state("finished", f"{count(self.epochs, 'epoch')} saved in {self.run.path / 'epochs'}.")

    def rehearse(self, updates: int) -> float:
        """Mean seconds of the first updates, taken in earnest one behind the other; nothing is saved or recorded."""
        started = time.perf_counter()
        todo = [self._updates(0)[number % self.updates_per_epoch] for number in range(updates)]
        self._encode_ahead(0, todo)
        for group in todo:
            self._update(0, group)
        self._pending[2].values()  # waits for the device
        return (time.perf_counter() - started) / updates

    def _epoch(self, epoch: int) -> bool:
        """One time through all pictures. False when a stop came in between, whose state is saved then."""
        updates = self._updates(epoch)[: self.steps - epoch * self.updates_per_epoch]
        first = self.position.update
        ahead = max(1, AHEAD // (self.position.group * self.config.loop.batch_size))
        for update in range(first, len(updates)):
            if self._obey():
                return False
            if (update - first) % ahead == 0:
                self._encode_ahead(epoch, updates[update : update + ahead])
            self._update(epoch, updates[update])
            self.position = replace(self.position, update=update + 1, step=self.position.step + 1)
        self._validate()
        self._settle()
        self.position = replace(self.position, epoch=epoch + 1, update=0)
        # The file first, then the state: a kill in between only makes the same epoch once more.
        self._save_epoch()
        self._save_state()
        self.recorder.state("training", epoch=self.position.epoch)
        return True

    def _updates(self, epoch: int) -> list[list[tuple[int, list[int]]]]:
        """The epoch's batches, numbered, grouped into what one update of the weights sees over all processes."""
        plan = list(enumerate(self.batches.plan(epoch)))
        size = self.position.group
        return [plan[start : start + size] for start in range(0, len(plan), size)]

    def _encode_ahead(self, epoch: int, updates: list[list[tuple[int, list[int]]]]) -> None:
        """The captions of what this process trains on in these updates."""
        batches = (batch for group in updates for batch, _ in processes.turns(self.accelerator, group))
        self.encode.prepare(self.batches.captions(epoch, *batch) for batch in batches)

    def _update(self, epoch: int, group: list[tuple[int, list[int]]]) -> None:
        started = time.perf_counter()
        examples = sum(len(indices) for _, indices in group)
        total = torch.zeros((), device=self.accelerator.device)
        for (position, indices), counts in processes.turns(self.accelerator, group):
            batch = self.batches.make(epoch, position, indices, self.step.alphas_cumprod)
            batch = replace(batch, weights=batch.weights / examples * counts).to(self.accelerator.device)
            total += self.step.backward(batch, f"{self.config.loop.seed}/{epoch}/{position}/dropout")
        rates = self._step_optimizer()
        self._settle()
        both = processes.total(self.accelerator, torch.stack([total, total.new_full((), float(self._asked))]))
        self._pending = (self.position.step + 1, {"epoch": epoch + 1, **rates}, environment.Figures(both))
        self.recorder.step(time.perf_counter() - started, epoch=epoch, step=self.position.step + 1)

    def _step_optimizer(self) -> dict[str, float]:
        """One update of the adapter; returns the learning rate of each group for the record."""
        rates = {}
        factor = schedules.factor(self.config.optimizer, self.position.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        processes.share_gradients(self.accelerator, self.adapter.parameters())
        if self.config.loop.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.adapter.parameters(), self.config.loop.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self.step.is_recorded)
        if self.config.adapter.scale_weight_norms > 0:
            self.adapter.limit_norms(self.config.adapter.scale_weight_norms)
        self.average.step()
        for group in self.optimizer.param_groups:
            # An optimizer that finds its own rate keeps it in `d`, and multiplies ours with it.
            rates[f"lr/{group['name']}"] = group["lr"] * float(group.get("d", 1))
        return rates

    def _validate(self) -> None:
        """Measure the weights as they will be saved; the figures stand beside the loss of the epoch's last step."""
        if not self.validation or self._pending is None:
            return
        with self._averaged():
            measured = self.validation.measure(self.accelerator, list(self.model.modules().values()), self.step.loss)
        step, values, figures = self._pending
        self._pending = (step, {**values, **measured}, figures)

    def _settle(self) -> None:
        """Read the loss of the update before, so that the device never waits for the record."""
        if self._pending is None:
            return
        (step, values, figures), self._pending = self._pending, None
        loss, asked = figures.values()
        self._agreed = asked > 0
        self.recorder.metrics(step, {"loss": loss, **values})
        if not math.isfinite(loss):
            raise UserError(self._diagnosis(step))

    def _diagnosis(self, step: int) -> str:
        saved = self.run.epochs()
        kept = f"Epoch {saved[-1].number} is saved and intact." if saved else "No epoch had been saved yet."
        where = f"The loss stopped being a finite number at step {step}. {kept}"
        frozen = [weight for weight in self.model.unet.parameters() if not weight.requires_grad and weight.itemsize > 1]
        if not all(weight.isfinite().all() for weight in frozen):
            return f"{where} The base model {self.config.model.base} itself holds broken weights: get it again."
        if self.config.model.precision == "fp16":
            return f"{where} The base model overflows in fp16: train with model.precision=bf16 (or fp32)."
        rate = self.config.optimizer.learning_rate
        return f"{where} The LoRA ran away: lower optimizer.learning_rate ({rate:g}), for example to {rate / 10:g}."

    # ── save and obey ───────────────────────────────────────────────────────────────────────────────────

    def _obey(self) -> bool:
        """Look at the control files. True when the run is to stop now; its state is saved then."""
        main = self.accelerator.is_main_process
        self._asked = self._asked or self._is_asked_to_stop()
        # Of several processes all stop at the same update, whichever was asked: it goes round with the next loss.
        stop = self._asked if self.accelerator.num_processes == 1 else self._agreed
        save, look = (main and self.run.take_request(command) for command in ("save", "sample"))
        if stop or save or look:
            self._settle()
            self._save_state()
        if look and not stop:
            self._sample()
        return stop

    def _is_asked_to_stop(self) -> bool:
        return bool(self.signals) or (self.accelerator.is_main_process and self.run.take_request("stop"))

    def _sample(self) -> None:
        """A few pictures of what has been learned by now. What keeps them from being made is said; training goes on."""
        step, control = self.position.step, self.run.path / "control"
        self.recorder.note = f"Rendering pictures of step {step}"
        self.recorder.state("training")
        try:
            lora = self._write_lora(self.run.sample_path(step))
            sample(lora, self.config, self.model, step, lambda: bool(self.signals) or (control / "stop").exists())
            self.recorder.note = ""
        except UserError as error:
            self.recorder.note = f"The pictures of step {step} could not be rendered: {error}"
        self.recorder.state("training")

    def _save_state(self) -> None:
        self.recorder.flush()
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
            optimizer, average = self.optimizer.state_dict(), self.average.state()
            save_state(self.run.path / "state", self.position, self.adapter.exact(), optimizer, scaler, average)

    def _save_epoch(self) -> None:
        if self.accelerator.is_main_process:
            self._write_lora(self.run.epoch_path(self.position.epoch))

    def _write_lora(self, path: Path) -> Path:
        """What has been learned by now as a finished LoRA file."""
        with self._averaged():
            tensors = self.adapter.tensors(environment.DTYPES[self.config.adapter.save_precision])
        kohya.write(path, tensors, kohya.renamed(kohya.training_metadata(self.config, self._facts()), path.stem))
        return path

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """The weights as they are to be used: with an average, or an averaging optimizer, others are trained.

        Those others are put back bit for bit, and not computed back, so saving changes nothing that follows.
        """
        training = self.adapter.exact()
        self.optimizer.eval()
        self.average.use()
        try:
            yield
        finally:
            self.optimizer.train()
            self.adapter.load_exact(training)

    def _facts(self) -> kohya.Facts:
        return environment.facts(
            self.model,
            self.config,
            self.examples,
            run=self.run.name,
            batches_per_epoch=len(self.batches.plan(0)),
            batches_per_update=self.position.group,
            epoch=self.position.epoch,
            epochs=self.epochs,
            step=self.position.step,
            steps=self.steps,
            started=self.started,
            optimizer=optimizers.class_path(self.config.optimizer.name),
        )
