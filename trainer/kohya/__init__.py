"""The LoRA file format of kohya's sd-scripts: write it, read it, and say what any LoRA file is.

A LoRA is a safetensors file with three tensors per module, `NAME.lora_down.weight`, `NAME.lora_up.weight` and
`NAME.alpha`, and metadata whose values are all strings. Looking into a file (`describe`, `read_header`) needs
no torch.
"""

from trainer.kohya.algebra import Change, changed
from trainer.kohya.file import (
    Header,
    LoraFile,
    Metadata,
    legacy_hash,
    model_hash,
    module_shapes,
    read,
    read_header,
    renamed,
    tensor_hash,
    write,
)
from trainer.kohya.info import TOOLS, LoraInfo, describe
from trainer.kohya.metadata import Facts, FolderFacts, session_id, training_metadata

__all__ = [
    "TOOLS",
    "Change",
    "Facts",
    "FolderFacts",
    "Header",
    "LoraFile",
    "LoraInfo",
    "Metadata",
    "changed",
    "describe",
    "legacy_hash",
    "model_hash",
    "module_shapes",
    "read",
    "read_header",
    "renamed",
    "session_id",
    "tensor_hash",
    "training_metadata",
    "write",
]
