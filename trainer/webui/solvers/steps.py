"""What the samplers' loops share: steps along a line, and the noise that is added around them."""

from collections.abc import Callable
from dataclasses import dataclass

INFINITY = float("inf")


def denoise(denoiser, x, sigma: float):
    return denoiser(x, x.new_full((x.shape[0],), sigma))


def towards(x, denoised, sigma: float, sigma_next: float):
    """From σ to σ_next along the line through x and its denoised picture.

    It is Euler's step in σ, and the exact solution of DPM-Solver++'s ODE for a constant prediction.
    """
    return denoised + (sigma_next / sigma) * (x - denoised)


def ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(σ_down, σ_up): step down to σ_down, then add noise σ_up to arrive at σ_next."""
    if not eta:
        return sigma_next, 0.0
    up = eta * (sigma_next**2 * max(sigma**2 - sigma_next**2, 0.0) / sigma**2) ** 0.5
    up = min(sigma_next, up)
    return (sigma_next**2 - up**2) ** 0.5, up


def pairs(sigmas) -> list[tuple[float, float]]:
    values = [float(sigma) for sigma in sigmas]
    return list(zip(values[:-1], values[1:], strict=True))


@dataclass(frozen=True)
class Churn:
    """Noise added before a step (Karras et al. 2022, algorithm 2)."""

    noise: Callable | None
    churn: float
    tmin: float
    tmax: float
    scale: float
    steps: int

    def __call__(self, x, sigma: float, sigma_next: float):
        if not self.churn:
            return x, sigma
        # k-diffusion draws at every step, also where nothing is added; the later draws depend on it.
        drawn = self.noise(sigma, sigma_next)
        if not self.tmin <= sigma <= self.tmax:
            return x, sigma
        hat = sigma * (1 + min(self.churn / self.steps, 2**0.5 - 1))
        return x + drawn * self.scale * (hat**2 - sigma**2) ** 0.5, hat
