"""Every setting of a training run, each declared exactly once.

A setting's name, type, range, unit, label, plain-language help and kohya name all stand in its line here.
The command line (`--set adapter.rank=16`), the studio's form, the preset check, the documentation table and
the kohya import are made from these declarations, so a new setting is one line in its part's file
here and the place that obeys it.
"""

from trainer.config.adapter import AdapterConfig
from trainer.config.data import DataConfig
from trainer.config.declare import Part, setting
from trainer.config.evaluation import EvaluationConfig
from trainer.config.lookup import Setting, find_path, setting_paths, settings, validate
from trainer.config.loop import LoopConfig
from trainer.config.loss import LossConfig
from trainer.config.model import ModelConfig
from trainer.config.optimizer import OptimizerConfig
from trainer.config.train import TrainConfig

__all__ = [
    "AdapterConfig",
    "DataConfig",
    "EvaluationConfig",
    "LoopConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Part",
    "Setting",
    "TrainConfig",
    "find_path",
    "setting",
    "setting_paths",
    "settings",
    "validate",
]
