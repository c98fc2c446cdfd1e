"""Methods that remember nothing of the steps before: Euler, Heun, midpoint, their ancestral forms, restart."""

import math

from trainer.webui.schedules import float32
from trainer.webui.solvers.steps import INFINITY, Churn, ancestral, denoise, pairs, towards


def _churned(step, denoiser, x, sigmas, *, noise=None, s_churn=0.0, s_tmin=0.0, s_tmax=INFINITY, s_noise=1.0):
    """`step(denoiser, x, sigma, sigma_next)` from σ to σ, each from a little more noise where that is asked for."""
    churn = Churn(noise, s_churn, s_tmin, s_tmax, s_noise, len(sigmas) - 1)
    for sigma, sigma_next in pairs(sigmas):
        x, hat = churn(x, sigma, sigma_next)
        x = step(denoiser, x, hat, sigma_next)
    return x


def sample_euler(denoiser, x, sigmas, **churn):
    """Euler's method (Karras et al. 2022, algorithm 2 without its correction)."""
    return _churned(_euler_step, denoiser, x, sigmas, **churn)


def _euler_step(denoiser, x, sigma: float, sigma_next: float):
    return towards(x, denoise(denoiser, x, sigma), sigma, sigma_next)


def sample_euler_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """Euler steps with part of the noise replaced by fresh noise (as in DDPM, Ho et al. 2020)."""
    for sigma, sigma_next in pairs(sigmas):
        down, up = ancestral(sigma, sigma_next, eta)
        x = towards(x, denoise(denoiser, x, sigma), sigma, down)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_heun(denoiser, x, sigmas, **churn):
    """Heun's method (Karras et al. 2022, algorithm 2): the slope is the mean of both ends'."""
    return _churned(_heun_step, denoiser, x, sigmas, **churn)


def _heun_step(denoiser, x, sigma: float, sigma_next: float):
    denoised = denoise(denoiser, x, sigma)
    ahead = towards(x, denoised, sigma, sigma_next)
    if sigma_next == 0:
        return ahead
    slope = (x - denoised) / sigma
    slope_ahead = (ahead - denoise(denoiser, ahead, sigma_next)) / sigma_next
    return x + (slope + slope_ahead) * ((sigma_next - sigma) / 2)


def sample_dpm_2(denoiser, x, sigmas, **churn):
    """The midpoint method with the midpoint in log σ (after DPM-Solver-2, Lu et al. 2022)."""
    return _churned(_midpoint_step, denoiser, x, sigmas, **churn)


def _midpoint_step(denoiser, x, sigma: float, sigma_next: float):
    denoised = denoise(denoiser, x, sigma)
    if sigma_next == 0:
        return denoised
    middle = (sigma * sigma_next) ** 0.5
    halfway = towards(x, denoised, sigma, middle)
    slope = (halfway - denoise(denoiser, halfway, middle)) / middle
    return x + slope * (sigma_next - sigma)


def sample_dpm_2_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """Midpoint steps down to σ_down, then fresh noise."""
    for sigma, sigma_next in pairs(sigmas):
        down, up = ancestral(sigma, sigma_next, eta)
        x = _midpoint_step(denoiser, x, sigma, down)
        if down > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_dpmpp_2s_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, algorithm 1) down to σ_down, then fresh noise."""
    for sigma, sigma_next in pairs(sigmas):
        down, up = ancestral(sigma, sigma_next, eta)
        denoised = denoise(denoiser, x, sigma)
        if down > 0:
            middle = (sigma * down) ** 0.5
            denoised = denoise(denoiser, towards(x, denoised, sigma, middle), middle)
        x = towards(x, denoised, sigma, down)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_dpmpp_sde(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0, r=0.5):
    """DPM-Solver++ (stochastic), single step of second order; noise from a Brownian path."""
    for sigma, sigma_next in pairs(sigmas):
        denoised = denoise(denoiser, x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        at, middle, at_next = _float32_times(sigma, sigma_next, r)
        down, up = ancestral(sigma, middle, eta)
        halfway = towards(x, denoised, sigma, down) + noise(at, middle) * (s_noise * up)
        weight = 1 / (2 * r)
        mixed = (1 - weight) * denoised + weight * denoise(denoiser, halfway, middle)
        down, up = ancestral(sigma, sigma_next, eta)
        x = towards(x, mixed, sigma, down) + noise(at, at_next) * (s_noise * up)
    return x


def _float32_times(sigma: float, sigma_next: float, r: float) -> tuple[float, float, float]:
    """(σ, the σ between, σ_next) as they come back from float32 logarithms in k-diffusion.

    The Brownian path is looked up by the sixth decimal, so the last bit shows in the picture.
    """
    t, t_next = float32(-math.log(sigma)), float32(-math.log(sigma_next))
    between = float32(t + float32(float32(t_next - t) * r))
    return float32(math.exp(-t)), float32(math.exp(-between)), float32(math.exp(-t_next))


def sample_restart(denoiser, x, sigmas, *, noise, s_noise=1.0):
    """Restart sampling (Xu et al. 2023, arXiv:2306.14878): Heun steps that go back to σ ≈ 2 with new noise.

    The number of restarts is A1111's: none below 20 steps, one of 9 steps from 20 on, two of a quarter of the
    steps from 36 on.
    """
    last = None
    for sigma, sigma_next in _restart_steps([float(sigma) for sigma in sigmas]):
        if last is not None and sigma > last:
            x = x + noise(last, sigma) * (s_noise * (sigma**2 - last**2) ** 0.5)
        x = _heun_step(denoiser, x, sigma, sigma_next)
        last = sigma_next
    return x


def _restart_steps(sigmas: list[float]) -> list[tuple[float, float]]:
    steps = len(sigmas) - 1
    if steps < 20:
        return pairs(sigmas)
    size, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    sigmas = _karras(steps - size * times, sigmas[-2], sigmas[0]) + [0.0]
    low = _nearest_index(sigmas, 0.1)
    high = _nearest_index(sigmas, 2.0)
    whole = pairs(sigmas)
    if high >= low:
        return whole
    again = pairs(_karras(size + 1, sigmas[low], sigmas[high]))
    return whole[:low] + again * times + whole[low:]


def _karras(n: int, low: float, high: float, rho: float = 7.0) -> list[float]:
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + (b - a) * i / max(n - 1, 1)) ** rho for i in range(n)]


def _nearest_index(values: list[float], target: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - target))
