"""Noise schedules: the σ at which a sampler evaluates the model, by A1111's labels. No torch here.

σ is the noise level in k-diffusion's sense: x = x0 + σ·noise, σ² = (1 − ᾱ) / ᾱ. A model is given by its 1000
training sigmas, rising.
"""

import bisect
import math
import struct
from collections.abc import Callable, Sequence


def model_sigmas(alphas_cumprod) -> list[float]:
    """σ of every training timestep, from the cumulative products ᾱ (a tensor or a sequence)."""
    values = alphas_cumprod.tolist() if hasattr(alphas_cumprod, "tolist") else alphas_cumprod
    return [((1 - value) / value) ** 0.5 for value in values]


def t_of_sigma(model: Sequence[float], sigma: float) -> float:
    """The fractional timestep of σ, linear in log σ between training timesteps and clamped at the ends."""
    low = min(max(bisect.bisect_right(model, sigma) - 1, 0), len(model) - 2)
    a, b = math.log(model[low]), math.log(model[low + 1])
    if sigma <= 0:
        return 0.0
    return low + min(max((math.log(sigma) - a) / (b - a), 0.0), 1.0)


def sigma_of_t(model: Sequence[float], t: float) -> float:
    """The inverse of `t_of_sigma`."""
    low = min(max(math.floor(t), 0), len(model) - 1)
    high = min(low + 1, len(model) - 1)
    part = t - low
    return math.exp((1 - part) * math.log(model[low]) + part * math.log(model[high]))


def _linspace(start: float, end: float, n: int) -> list[float]:
    return [start + (end - start) * i / (n - 1) for i in range(n)] if n > 1 else [start][:n]


def _uniform(model, n, low, high, **_):
    """Timesteps spread evenly from the last to the first (k-diffusion's `get_sigmas`)."""
    return [sigma_of_t(model, t) for t in _linspace(len(model) - 1, 0, n)] + [0.0]


def _normal(model, n, low, high, **_):
    """Timesteps spread evenly between those of the largest and the smallest σ."""
    times = _linspace(t_of_sigma(model, high), t_of_sigma(model, low), n)
    return [sigma_of_t(model, t) for t in times] + [0.0]


def _sgm_uniform(model, n, low, high, **_):
    """As Normal with one timestep more, the last left out (Stability's generative-models)."""
    times = _linspace(t_of_sigma(model, high), t_of_sigma(model, low), n + 1)[:-1]
    return [sigma_of_t(model, t) for t in times] + [0.0]


def _karras(model, n, low, high, *, rho=7.0, **_):
    """Evenly in σ^(1/ρ) (Karras et al. 2022, equation 5)."""
    return [v**rho for v in _linspace(high ** (1 / rho), low ** (1 / rho), n)] + [0.0]


def _exponential(model, n, low, high, **_):
    """Evenly in log σ."""
    return [math.exp(v) for v in _linspace(math.log(high), math.log(low), n)] + [0.0]


def _polyexponential(model, n, low, high, *, rho=1.0, **_):
    """A polynomial of degree ρ in log σ."""
    span = math.log(high) - math.log(low)
    return [math.exp(v**rho * span + math.log(low)) for v in _linspace(1, 0, n)] + [0.0]


def _kl_optimal(model, n, low, high, **_):
    """Evenly in arctan σ (Sabour et al. 2024, theorem 3.1). A1111 ends it at the smallest σ, not at zero."""
    return [math.tan(v) for v in _linspace(math.atan(high), math.atan(low), n + 1)]


# Sabour et al. 2024, "Align Your Steps", the published tables for 10 steps.
_ALIGNED = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_ALIGNED_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


def _align_your_steps(model, n, low, high, *, sdxl=False, **_):
    """NVIDIA's optimized table for SD 1.5 or SDXL, log-linear between its entries."""
    table = [math.log(value) for value in (_ALIGNED_SDXL if sdxl else _ALIGNED)]
    return [math.exp(_interpolate(table, v)) for v in _linspace(0, len(table) - 1, n)] + [0.0]


def _interpolate(table: Sequence[float], position: float) -> float:
    low = min(int(position), len(table) - 2)
    return table[low] + (table[low + 1] - table[low]) * (position - low)


def _simple(model, n, low, high, **_):
    """Every (1000/n)-th training σ, counted from the largest."""
    return [model[-(1 + int(i * (len(model) / n)))] for i in range(n)] + [0.0]


def _ddim(model, n, low, high, **_):
    """Every (1000//n)-th training σ, counted from the second smallest; can give more steps than asked for."""
    return list(model[1 :: max(len(model) // n, 1)])[::-1] + [0.0]


def _beta(model, n, low, high, *, alpha=0.6, beta=0.6, **_):
    """Quantiles of a Beta(0.6, 0.6) distribution (Lee et al. 2024, arXiv:2407.12173).

    A1111 spreads σ itself by the quantiles, where ComfyUI spreads the timesteps.
    """
    return [low + beta_quantile(1 - v, alpha, beta) * (high - low) for v in _linspace(0, 1, n)] + [0.0]


def beta_quantile(p: float, a: float, b: float) -> float:
    """x with I_x(a, b) = p, by bisection on the regularized incomplete beta function."""
    if p <= 0 or p >= 1:
        return min(max(p, 0.0), 1.0)
    low, high = 0.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: float, b: float) -> float:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), from the side on which it converges quickly."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_cdf(1 - x, b, a)
    value = 1.0
    for m in range(200, 0, -1):
        k, odd = divmod(m, 2)
        if odd:
            term = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        else:
            term = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        value = 1 + term / value
    log = a * math.log(x) + b * math.log1p(-x) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    return math.exp(log) / (a * value)


SCHEDULES: dict[str, Callable | None] = {
    "Automatic": None,
    "Uniform": _uniform,
    "Karras": _karras,
    "Exponential": _exponential,
    "Polyexponential": _polyexponential,
    "SGM Uniform": _sgm_uniform,
    "KL Optimal": _kl_optimal,
    "Align Your Steps": _align_your_steps,
    "Simple": _simple,
    "Normal": _normal,
    "DDIM": _ddim,
    "Beta": _beta,
}


def sigmas(
    model: Sequence[float],
    steps: int,
    schedule: str,
    *,
    discard_penultimate: bool = False,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    **options,
) -> list[float]:
    """The falling σ of a schedule by its label, `steps` + 1 of them with the final zero.

    `discard_penultimate` computes one step more and leaves out the last σ above zero, as A1111 does for DPM2
    and DPM++ 3M SDE. `options`: rho (Karras, Polyexponential), sdxl (Align Your Steps), alpha and beta
    (Beta). Values are rounded to float32, in which the tools hold them.
    """
    low = sigma_min or model[0]
    high = sigma_max or model[-1]
    function = SCHEDULES[schedule] or _uniform
    values = function(model, steps + bool(discard_penultimate), low, high, **options)
    if discard_penultimate:
        values = values[:-2] + values[-1:]
    return [float32(value) for value in values]


def float32(value: float) -> float:
    return struct.unpack("f", struct.pack("f", value))[0]
