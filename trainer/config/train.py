"""A whole run's settings: the parts together."""

from __future__ import annotations

from collections.abc import Iterable

from trainer.blocks import parse
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

    def learning_rate(self, component: str, block: str = "") -> float:
        """Of the UNet (or one of its blocks), `text_encoder` or `text_encoder_2`; 0 when it is not trained."""
        rates = self.optimizer
        if component == "unet":
            return rates.learning_rate * parse(rates.block_learning_rates, "optimizer.block_learning_rates").get(
                block, 1
            )
        if not self.adapter.text_encoder:
            return 0.0
        second = component == "text_encoder_2" and rates.text_encoder_2_learning_rate >= 0
        return rates.text_encoder_2_learning_rate if second else rates.text_encoder_learning_rate

    def trains_any(self, components: Iterable[str]) -> bool:
        return any(self.learning_rate(component) > 0 for component in components)
