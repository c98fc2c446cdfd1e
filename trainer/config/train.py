"""A whole run's settings: the parts together."""

from __future__ import annotations

from trainer.config.adapter import AdapterConfig
from trainer.config.data import DataConfig
from trainer.config.declare import Part, setting
from trainer.config.evaluation import EvaluationConfig
from trainer.config.loop import LoopConfig
from trainer.config.loss import LossConfig
from trainer.config.model import ModelConfig
from trainer.config.optimizer import OptimizerConfig


class TrainConfig(Part):
    """A whole run: what `config.toml` in the run folder holds, every default written out."""

    name: str = setting(
        "",
        label="Name",
        help="Name of the LoRA: of its files, and what stands in <lora:name:1>.",
        kohya="output_name",
        front=True,
        max_length=100,
    )
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    adapter: AdapterConfig = AdapterConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    loop: LoopConfig = LoopConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
