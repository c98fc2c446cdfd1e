"""ONNX models from files: taggers, background removal and face detection open them the same way."""

import os
from pathlib import Path

from trainer.dataset.names import shown
from trainer.errors import UserError


def opened(path: Path):
    """An onnxruntime session; on CUDA where this onnxruntime offers it, else on the CPU.

    Raises UserError for what is no ONNX model.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    providers = [p for p in ("CUDAExecutionProvider", "CPUExecutionProvider") if p in available]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings about graph details mean nothing to a user
    # One core is left to the threads that read pictures.
    options.intra_op_num_threads = max(1, (os.cpu_count() or 1) - 1)
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime raises types of its own for each kind of damage
        reason = shown(" ".join(str(error).split()))[:160]
        raise UserError(f"{shown(path)} cannot be loaded as an ONNX model ({reason}): fetch it again.") from error


class Seer:
    """A loaded model that takes one picture as [1, 3, height, width].

    `usual`: px of the sides that the export leaves open. Raises UserError for a model that takes anything else.
    """

    def __init__(self, path: Path, usual: int):
        self.path = path
        self._session = opened(path)
        inputs = self._session.get_inputs()[0]
        if len(inputs.shape) != 4 or inputs.shape[1] != 3:
            raise UserError(
                f"{shown(path)} takes an input of shape {inputs.shape}, and [1, 3, height, width] is needed: "
                f"take another export of the model."
            )
        self.height, self.width = (side if isinstance(side, int) else usual for side in inputs.shape[2:])
        self._input, self._half = inputs.name, "float16" in inputs.type
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, pixels) -> dict:
        """Outputs by name for float32 [height, width, 3]. Raises UserError when the model cannot be run on it."""
        import numpy as np

        planes = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float16 if self._half else np.float32)
        try:
            answers = self._session.run(None, {self._input: planes})
        except Exception as error:  # as above; also when memory is short
            reason = shown(" ".join(str(error).split()))[:160]
            raise UserError(f"{shown(self.path)} failed ({reason}): take another export of the model.") from error
        return dict(zip(self.outputs, answers))
