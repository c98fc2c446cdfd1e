"""The loops of the samplers: one function each, in σ-space, over a denoiser.

Every function has the shape

    sample(denoiser, x, sigmas, *, noise=None, …) -> x

`denoiser(x, sigma)` predicts x0 from x = x0 + σ·noise, for x [B, …] and σ [B]. `sigmas` falls and usually
ends in zero. `noise(sigma, sigma_next)` gives unit noise shaped like x (see noise.py). Samples of a batch
never meet, so a picture from a batch is the picture rendered alone. Numbers are Python floats: nothing
here imports torch; the caller turns gradients off.
"""

from trainer.webui.solvers.dpm_solver import sample_dpm_adaptive, sample_dpm_fast
from trainer.webui.solvers.multistep import (
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_3m_sde,
    sample_lms,
    sample_unipc,
)
from trainer.webui.solvers.single import (
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_restart,
)
from trainer.webui.solvers.timesteps import sample_ddim, sample_lcm, sample_plms

__all__ = [
    "sample_ddim",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpm_adaptive",
    "sample_dpm_fast",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lcm",
    "sample_lms",
    "sample_plms",
    "sample_restart",
    "sample_unipc",
]
