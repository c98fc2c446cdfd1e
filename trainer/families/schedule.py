"""The noise schedule a base model was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Noise:
    alphas_cumprod: Tensor  # ᾱ, [1000] float64, falling
    prediction_type: str  # "epsilon" or "v_prediction"


def from_config(config: dict[str, Any]) -> Noise:
    """From a diffusers scheduler_config.json; what it does not say is as in SD 1.5, SD 2.x and SDXL.

    Raises UserError for a schedule or prediction type that these families do not have.
    """
    import torch

    if (scheduler := config.get("_class_name", "")).startswith(("EDM", "FlowMatch")):
        raise UserError(
            f"This base model was trained for {scheduler}, which SD 1.5, SD 2.x and SDXL are not: give one of those."
        )
    steps = config.get("num_train_timesteps", 1000)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    kind = config.get("beta_schedule", "scaled_linear")
    if kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    elif kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
    else:
        raise UserError(f"This base model has the noise schedule {kind!r}; SD 1.5, SD 2.x and SDXL have scaled_linear.")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise UserError(f"This base model predicts {prediction!r}; only epsilon and v_prediction can be trained.")
    alphas_cumprod = (1 - betas).cumprod(0)
    if config.get("rescale_betas_zero_snr"):
        alphas_cumprod = zero_terminal_snr(alphas_cumprod)
    return Noise(alphas_cumprod, prediction)


def ends_in_noise(alphas_cumprod: Tensor) -> bool:
    """Whether the last step holds no signal to speak of; SD 1.5's and SDXL's holds a share of 0.0047."""
    return alphas_cumprod[-1].item() < 1e-6


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Shift and scale √ᾱ so that the last step is pure noise (Lin et al. 2023, "Common Diffusion Noise
    Schedules and Sample Steps are Flawed", algorithm 1), but leave a last ᾱ of 4.9e-8 as A1111 and ComfyUI
    do: samplers in σ-space cannot begin at infinity."""
    roots = alphas_cumprod.sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    rescaled = roots**2
    rescaled[-1] = 4.8973451890853435e-08
    return rescaled
