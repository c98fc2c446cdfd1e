"""How far the samplers are from k-diffusion's, on a denoiser that can be written down, with the same noise.

    pip download k-diffusion --no-deps
    python benchmarks/samplers.py k_diffusion-0.1.1.post1-py3-none-any.whl

Of the wheel only `k_diffusion/sampling.py` is run; what it imports besides torch and SciPy is not used there.
"""

from __future__ import annotations

import argparse
import sys
import types
import zipfile
from datetime import date
from pathlib import Path

import torch
from torch import Tensor

from trainer.webui import samplers

NAMES = {
    "DPM++ 2M": "dpmpp_2m", "DPM++ SDE": "dpmpp_sde", "DPM++ 2M SDE": "dpmpp_2m_sde",
    "DPM++ 2M SDE Heun": "dpmpp_2m_sde", "DPM++ 2S a": "dpmpp_2s_ancestral", "DPM++ 3M SDE": "dpmpp_3m_sde",
    "Euler a": "euler_ancestral", "Euler": "euler", "LMS": "lms", "Heun": "heun", "DPM2": "dpm_2",
    "DPM2 a": "dpm_2_ancestral", "DPM fast": "dpm_fast", "DPM adaptive": "dpm_adaptive",
}  # fmt: skip
STEPS = (12, 20, 31)
SHAPE = (1, 4, 8, 8)  # one picture: k-diffusion's DPM adaptive chooses its steps for a whole batch, ours for each
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
MODEL = samplers.model_sigmas(torch.cumprod(1 - BETAS, 0))


def denoiser(x: Tensor, sigma: Tensor, **_) -> Tensor:
    """The posterior mean of a Gaussian, bent so that no method is exact by accident."""
    wide = sigma.view(-1, 1, 1, 1)
    return (0.25 * x + 0.3 * wide**2) / (wide**2 + 0.25) + 0.1 * torch.sin(x / (1 + wide))


def noises():
    generator = torch.Generator().manual_seed(7)
    return lambda *_: torch.randn(SHAPE, generator=generator)


def theirs_of(wheel: Path) -> types.ModuleType:
    """k-diffusion's functions, without the packages that its other parts need."""
    for name in ("torchdiffeq", "torchsde"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchdiffeq"].odeint = None
    utils = types.ModuleType("k_diffusion.utils")
    utils.append_dims = lambda x, count: x[(..., *(None,) * (count - x.ndim))]
    package = types.ModuleType("k_diffusion")
    package.utils, package.__path__ = utils, []
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    made = types.ModuleType("k_diffusion.sampling")
    made.__package__ = "k_diffusion"
    with zipfile.ZipFile(wheel) as files:
        exec(compile(files.read("k_diffusion/sampling.py"), "sampling.py", "exec"), made.__dict__)
    return made


def deviation(theirs: types.ModuleType, label: str, steps: int) -> float:
    """‖ours − theirs‖ / ‖theirs‖ at A1111's default schedule."""
    plan = samplers.plan(label, None, MODEL, steps)
    x = plan.start(torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)))
    ours = plan.run(denoiser, x, noises())
    function, how = getattr(theirs, f"sample_{NAMES[label]}"), {"disable": True}
    if plan.sampler.noise != "none":
        how["noise_sampler"] = noises()
    how |= {"solver_type": "heun"} if label.endswith("SDE Heun") else {}
    if label in ("DPM fast", "DPM adaptive"):
        ends = [plan.options[name] for name in ("sigma_min", "sigma_max")]
        count = [len(plan.sigmas) - 1] if label == "DPM fast" else []
        made = function(denoiser, x, *ends, *count, eta=1.0, **how)
    else:
        made = function(denoiser, x, torch.tensor(plan.sigmas), **how)
    return float((ours - made).norm() / made.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    options = parser.parse_args()
    theirs = theirs_of(options.wheel)
    print(f"{date.today()}, {options.wheel.name.split('-py3')[0]}, float32, one picture, {STEPS} steps\n")
    print("| sampler | " + " | ".join(f"{steps} steps" for steps in STEPS) + " |")
    print("|---|" + "---:|" * len(STEPS))
    for label in NAMES:
        print(f"| {label} | " + " | ".join(f"{deviation(theirs, label, steps):.0e}" for steps in STEPS) + " |")


if __name__ == "__main__":
    main()
