"""Adapters on a base model, through PEFT: attach, read, load, scale, detach. The only room that knows PEFT."""

from trainer.adapters.adapter import Adapter
from trainer.adapters.kinds import KINDS
from trainer.adapters.start import start_from

__all__ = ["KINDS", "Adapter", "start_from"]
