"""The loops of the samplers: one function each, in σ-space, over a denoiser.

Every function has the shape

    sample(denoiser, x, sigmas, *, noise=None, …) -> x

`denoiser(x, sigma)` predicts x0 from x = x0 + σ·noise, for x [B, …] and σ [B]. `sigmas` falls and usually
ends in zero. `noise(sigma, sigma_next)` gives unit noise shaped like x (see noise.py). Samples of a batch
never meet, so a picture from a batch is the picture rendered alone. Numbers are Python floats: nothing
here imports torch; the caller turns gradients off.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from trainer.webui.schedules import float32

INFINITY = float("inf")


# ── pieces ─────────────────────────────────────────────────────────────────────────────────────────────


def _denoise(denoiser, x, sigma: float):
    return denoiser(x, x.new_full((x.shape[0],), sigma))


def _towards(x, denoised, sigma: float, sigma_next: float):
    """From σ to σ_next along the line through x and its denoised picture.

    It is Euler's step in σ, and the exact solution of DPM-Solver++'s ODE for a constant prediction.
    """
    return denoised + (sigma_next / sigma) * (x - denoised)


def _ancestral(sigma: float, sigma_next: float, eta: float) -> tuple[float, float]:
    """(σ_down, σ_up): step down to σ_down, then add noise σ_up to arrive at σ_next."""
    if not eta:
        return sigma_next, 0.0
    up = eta * (sigma_next**2 * max(sigma**2 - sigma_next**2, 0.0) / sigma**2) ** 0.5
    up = min(sigma_next, up)
    return (sigma_next**2 - up**2) ** 0.5, up


def _pairs(sigmas) -> list[tuple[float, float]]:
    values = [float(sigma) for sigma in sigmas]
    return list(zip(values[:-1], values[1:], strict=True))


@dataclass(frozen=True)
class _Churn:
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


# ── one step methods ───────────────────────────────────────────────────────────────────────────────────


def sample_euler(denoiser, x, sigmas, *, noise=None, s_churn=0.0, s_tmin=0.0, s_tmax=INFINITY, s_noise=1.0):
    """Euler's method (Karras et al. 2022, algorithm 2 without its correction)."""
    churn = _Churn(noise, s_churn, s_tmin, s_tmax, s_noise, len(sigmas) - 1)
    for sigma, sigma_next in _pairs(sigmas):
        x, hat = churn(x, sigma, sigma_next)
        x = _towards(x, _denoise(denoiser, x, hat), hat, sigma_next)
    return x


def sample_euler_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """Euler steps with part of the noise replaced by fresh noise (as in DDPM, Ho et al. 2020)."""
    for sigma, sigma_next in _pairs(sigmas):
        down, up = _ancestral(sigma, sigma_next, eta)
        x = _towards(x, _denoise(denoiser, x, sigma), sigma, down)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_heun(denoiser, x, sigmas, *, noise=None, s_churn=0.0, s_tmin=0.0, s_tmax=INFINITY, s_noise=1.0):
    """Heun's method (Karras et al. 2022, algorithm 2): the slope is the mean of both ends'."""
    churn = _Churn(noise, s_churn, s_tmin, s_tmax, s_noise, len(sigmas) - 1)
    for sigma, sigma_next in _pairs(sigmas):
        x, hat = churn(x, sigma, sigma_next)
        x = _heun_step(denoiser, x, hat, sigma_next)
    return x


def _heun_step(denoiser, x, sigma: float, sigma_next: float):
    denoised = _denoise(denoiser, x, sigma)
    ahead = _towards(x, denoised, sigma, sigma_next)
    if sigma_next == 0:
        return ahead
    slope = (x - denoised) / sigma
    slope_ahead = (ahead - _denoise(denoiser, ahead, sigma_next)) / sigma_next
    return x + (slope + slope_ahead) * ((sigma_next - sigma) / 2)


def sample_dpm_2(denoiser, x, sigmas, *, noise=None, s_churn=0.0, s_tmin=0.0, s_tmax=INFINITY, s_noise=1.0):
    """The midpoint method with the midpoint in log σ (after DPM-Solver-2, Lu et al. 2022)."""
    churn = _Churn(noise, s_churn, s_tmin, s_tmax, s_noise, len(sigmas) - 1)
    for sigma, sigma_next in _pairs(sigmas):
        x, hat = churn(x, sigma, sigma_next)
        x = _midpoint_step(denoiser, x, hat, sigma_next)
    return x


def _midpoint_step(denoiser, x, sigma: float, sigma_next: float):
    denoised = _denoise(denoiser, x, sigma)
    if sigma_next == 0:
        return denoised
    middle = (sigma * sigma_next) ** 0.5
    halfway = _towards(x, denoised, sigma, middle)
    slope = (halfway - _denoise(denoiser, halfway, middle)) / middle
    return x + slope * (sigma_next - sigma)


def sample_dpm_2_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """Midpoint steps down to σ_down, then fresh noise."""
    for sigma, sigma_next in _pairs(sigmas):
        down, up = _ancestral(sigma, sigma_next, eta)
        x = _midpoint_step(denoiser, x, sigma, down)
        if down > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_dpmpp_2s_ancestral(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """DPM-Solver++(2S) (Lu et al. 2022, arXiv:2211.01095, algorithm 1) down to σ_down, then fresh noise."""
    for sigma, sigma_next in _pairs(sigmas):
        down, up = _ancestral(sigma, sigma_next, eta)
        denoised = _denoise(denoiser, x, sigma)
        if down > 0:
            middle = (sigma * down) ** 0.5
            denoised = _denoise(denoiser, _towards(x, denoised, sigma, middle), middle)
        x = _towards(x, denoised, sigma, down)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * (s_noise * up)
    return x


def sample_dpmpp_sde(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0, r=0.5):
    """DPM-Solver++ (stochastic), single step of second order; noise from a Brownian path."""
    for sigma, sigma_next in _pairs(sigmas):
        denoised = _denoise(denoiser, x, sigma)
        if sigma_next == 0:
            x = denoised
            continue
        at, middle, at_next = _float32_times(sigma, sigma_next, r)
        down, up = _ancestral(sigma, middle, eta)
        halfway = _towards(x, denoised, sigma, down) + noise(at, middle) * (s_noise * up)
        weight = 1 / (2 * r)
        mixed = (1 - weight) * denoised + weight * _denoise(denoiser, halfway, middle)
        down, up = _ancestral(sigma, sigma_next, eta)
        x = _towards(x, mixed, sigma, down) + noise(at, at_next) * (s_noise * up)
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
        return _pairs(sigmas)
    size, times = (steps // 4, 2) if steps >= 36 else (9, 1)
    sigmas = _karras(steps - size * times, sigmas[-2], sigmas[0]) + [0.0]
    low = _nearest_index(sigmas, 0.1)
    high = _nearest_index(sigmas, 2.0)
    pairs = _pairs(sigmas)
    if high >= low:
        return pairs
    again = _pairs(_karras(size + 1, sigmas[low], sigmas[high]))
    return pairs[:low] + again * times + pairs[low:]


def _karras(n: int, low: float, high: float, rho: float = 7.0) -> list[float]:
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + (b - a) * i / max(n - 1, 1)) ** rho for i in range(n)]


def _nearest_index(values: list[float], target: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - target))


# ── multistep methods ──────────────────────────────────────────────────────────────────────────────────


def sample_lms(denoiser, x, sigmas, *, noise=None, order=4):
    """Linear multistep: the polynomial through the last four slopes, integrated (Adams–Bashforth)."""
    values = [float(sigma) for sigma in sigmas]
    slopes = []
    for i in range(len(values) - 1):
        slopes = [(x - _denoise(denoiser, x, values[i])) / values[i], *slopes][:order]
        nodes = [values[i - j] for j in range(len(slopes))]
        for j, slope in enumerate(slopes):
            x = x + slope * _lagrange_integral(nodes, j, values[i], values[i + 1])
    return x


def _lagrange_integral(nodes: list[float], j: int, start: float, end: float) -> float:
    """∫ of the j-th Lagrange polynomial; Simpson's rule is exact up to degree 3."""

    def basis(tau: float) -> float:
        return math.prod((tau - node) / (nodes[j] - node) for k, node in enumerate(nodes) if k != j)

    return (end - start) / 6 * (basis(start) + 4 * basis((start + end) / 2) + basis(end))


def sample_dpmpp_2m(denoiser, x, sigmas, *, noise=None):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095, algorithm 2)."""
    old, h_old = None, 0.0
    for sigma, sigma_next in _pairs(sigmas):
        denoised = _denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        mixed = denoised if old is None else denoised + (denoised - old) * (h / (2 * h_old))
        x = _towards(x, mixed, sigma, sigma_next)
        old, h_old = denoised, h
    return x


def sample_dpmpp_2m_sde(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0, solver_type="midpoint"):
    """DPM-Solver++(2M) for the SDE; `solver_type` midpoint or heun; noise from a Brownian path."""
    old, h_old = None, 0.0
    for sigma, sigma_next in _pairs(sigmas):
        denoised = _denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        whole = h * (1 + eta)
        x = _towards(x, denoised, sigma, sigma * math.exp(-whole))
        if old is not None:
            part = -math.expm1(-whole)
            part = 1 - part / whole if solver_type == "heun" else part / 2
            x = x + (denoised - old) * (part * h / h_old)
        x = _add_sde_noise(x, noise, sigma, sigma_next, h, eta, s_noise)
        old, h_old = denoised, h
    return x


def _add_sde_noise(x, noise, sigma: float, sigma_next: float, h: float, eta: float, s_noise: float):
    if not eta:
        return x
    return x + noise(sigma, sigma_next) * (sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * s_noise)


def sample_dpmpp_3m_sde(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0):
    """DPM-Solver++(3M) for the SDE, as k-diffusion has it; noise from a Brownian path."""
    olds: list = []
    for sigma, sigma_next in _pairs(sigmas):
        denoised = _denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        whole = h * (1 + eta)
        x = _towards(x, denoised, sigma, sigma * math.exp(-whole))
        phi_2 = math.expm1(-whole) / whole + 1
        if len(olds) == 1:
            x = x + (denoised - olds[0][0]) * (phi_2 * h / olds[0][1])
        elif len(olds) == 2:
            (old, h_1), (older, h_2) = olds
            r0, r1 = h_1 / h, h_2 / h
            first, second = (denoised - old) / r0, (old - older) / r1
            bend = (first - second) / (r0 + r1)
            x = x + phi_2 * (first + bend * r0) - (phi_2 / whole - 0.5) * bend
        x = _add_sde_noise(x, noise, sigma, sigma_next, h, eta, s_noise)
        olds = [(denoised, h), *olds][:2]
    return x


def sample_unipc(denoiser, x, sigmas, *, noise=None, order=3):
    """UniPC in data prediction, variant B1(h) (Zhao et al. 2023, arXiv:2302.04867).

    As in A1111 the last σ is the model's smallest, and the latent is scaled by α there.
    """
    values = [float(sigma) for sigma in sigmas]
    steps = len(values) - 1
    if steps < 1:
        return x
    history = [(_denoise(denoiser, x, values[0]), values[0])]
    for i in range(1, steps + 1):
        size = min(order, i, steps + 1 - i)
        base, weights, corrected = _unipc_weights(history[:size], values[i])
        start = _towards(x, history[0][0], values[i - 1], values[i])
        x = start - _weighted_differences(history, weights) * base
        if i < steps:
            denoised = _denoise(denoiser, x, values[i])
            differences = _weighted_differences(history, corrected[:-1])
            x = start - (differences + (denoised - history[0][0]) * corrected[-1]) * base
            history = [(denoised, values[i]), *history][:order]
    return x / math.sqrt(1 + values[-1] ** 2)


def _unipc_weights(history, sigma_next: float) -> tuple[float, list[float], list[float]]:
    """(B(h), weights of the predictor, weights of the corrector) on differences to the newest prediction."""
    import numpy

    newest = history[0][1]
    h = -math.log(newest / sigma_next)
    ratios = [math.log(newest / sigma) / -h for _, sigma in history[1:]] + [1.0]
    phi, factorial, right = math.expm1(h) / h - 1, 1, []
    for i in range(1, len(ratios) + 1):
        right.append(phi * factorial / h)
        factorial *= i + 1
        phi = phi / h - 1 / factorial
    left = numpy.vander(ratios, increasing=True).T
    corrector = numpy.linalg.solve(left, right) if len(ratios) > 1 else [0.5]
    # With one difference the paper's weight is replaced by its limit, 1/2.
    predictor = [0.5] * (len(ratios) - 1)
    if len(ratios) > 2:
        predictor = numpy.linalg.solve(left[:-1, :-1], right[:-1])
    predictor = [weight / ratio for weight, ratio in zip(predictor, ratios, strict=False)]
    return h, predictor, [weight / ratio for weight, ratio in zip(corrector, ratios, strict=True)]


def _weighted_differences(history, weights):
    newest = history[0][0]
    total = newest * 0
    for weight, (denoised, _) in zip(weights, history[1:], strict=False):
        total = total + (denoised - newest) * float(weight)
    return total


# ── DDIM, PLMS, LCM ────────────────────────────────────────────────────────────────────────────────────


def sample_ddim(denoiser, x, sigmas, *, noise=None, eta=0.0):
    """DDIM (Song et al. 2020, arXiv:2010.02502, equation 12), as A1111 loops it: the last σ is not zero.

    The latent is scaled by α of that σ, as it comes out there.
    """
    for sigma, sigma_next in _pairs(sigmas):
        denoised = _denoise(denoiser, x, sigma)
        alpha, alpha_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        added = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
        kept = math.sqrt((1 - alpha_next - added**2) / alpha_next)
        x = _towards(x, denoised, sigma, kept)
        if eta:
            x = x + noise(sigma, sigma_next) * (added / math.sqrt(alpha_next))
    return x / math.sqrt(1 + float(sigmas[-1]) ** 2) if len(sigmas) else x


def sample_plms(denoiser, x, sigmas, *, noise=None):
    """PLMS (Liu et al. 2022, arXiv:2202.09778): DDIM steps along a multistep mean of the predicted noise."""
    weights = {1: (3 / 2, -1 / 2), 2: (23 / 12, -16 / 12, 5 / 12), 3: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    olds: list = []
    for sigma, sigma_next in _pairs(sigmas):
        slope = (x - _denoise(denoiser, x, sigma)) / sigma
        if olds:
            mean = sum(w * s for w, s in zip(weights[len(olds)], [slope, *olds], strict=True))
        else:
            ahead = x + slope * (sigma_next - sigma)
            mean = (slope + (ahead - _denoise(denoiser, ahead, sigma_next)) / sigma_next) / 2
        x = x + mean * (sigma_next - sigma)
        olds = [slope, *olds][:3]
    return x / math.sqrt(1 + float(sigmas[-1]) ** 2) if len(sigmas) else x


def sample_lcm(denoiser, x, sigmas, *, noise):
    """Latent consistency sampling (Luo et al. 2023, arXiv:2310.04378): denoise fully, add noise again.

    Its boundary weights differ from 0 and 1 by less than 1e-5 and are left out.
    """
    for sigma, sigma_next in _pairs(sigmas):
        x = _denoise(denoiser, x, sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * sigma_next
    return x


# ── DPM-Solver, fast and adaptive ──────────────────────────────────────────────────────────────────────
#
# Lu et al. 2022, arXiv:2206.00927, in λ = −log σ. Here λ is a tensor [B, 1, …], as the adaptive sampler gives
# every sample its own steps.


class _Solver:
    """Steps of order 1 to 3 from λ = s to t, sharing the evaluations at s and s + (t − s)/3."""

    def __init__(self, denoiser, x, s, t):
        self.denoiser, self.x, self.s, self.h = denoiser, x, s, t - s
        self.sigma_t = (-t).exp()
        self.eps = self._eps(x, 0.0)
        self.known: dict[float, object] = {}

    def _eps(self, x, r: float):
        sigma = (-(self.s + r * self.h)).exp()
        return (x - self.denoiser(x, sigma.flatten())) / sigma

    def _eps_first(self, r: float):
        if r not in self.known:
            ahead = self.x - (-(self.s + r * self.h)).exp() * (r * self.h).expm1() * self.eps
            self.known[r] = self._eps(ahead, r)
        return self.known[r]

    def first(self):
        return self.x - self.sigma_t * self.h.expm1() * self.eps

    def second(self, r: float = 0.5):
        return self.first() - self.sigma_t / (2 * r) * self.h.expm1() * (self._eps_first(r) - self.eps)

    def third(self):
        r1, r2, h = 1 / 3, 2 / 3, self.h
        bend = self._eps_first(r1) - self.eps
        sigma = (-(self.s + r2 * h)).exp()
        growth = (r2 * h).expm1()
        ahead = self.x - sigma * (growth * self.eps + (r2 / r1) * (growth / (r2 * h) - 1) * bend)
        bend = self._eps(ahead, r2) - self.eps
        return self.first() - self.sigma_t / r2 * (h.expm1() / h - 1) * bend


def _ancestral_lambda(s, t, end, eta: float):
    """(λ to step to, σ of the noise to add) for a step from s to t; tensors."""
    sigma, sigma_next = (-s).exp(), (-t).exp()
    up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).sqrt()
    down = (sigma_next**2 - up.minimum(sigma_next) ** 2).clamp(min=1e-38).sqrt()
    target = (-down.log()).minimum(end)
    return target, (sigma_next**2 - (-target).exp() ** 2).clamp(min=0).sqrt()


def _lambda_like(x, sigma: float):
    return x.new_full((x.shape[0],) + (1,) * (x.ndim - 1), -math.log(sigma))


def _range(sigmas, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """(largest, smallest σ above zero) of the schedule, unless given."""
    positive = [float(sigma) for sigma in sigmas if sigma > 0]
    return sigma_max or positive[0], sigma_min or positive[-1]


def sample_dpm_fast(denoiser, x, sigmas, *, noise=None, eta=1.0, s_noise=1.0, sigma_min=None, sigma_max=None):
    """DPM-Solver-fast: as many steps of order 3 as the evaluations allow, evenly in log σ.

    Of `sigmas` only the ends and the number count. A1111 runs it with eta 1.
    """
    calls = len(sigmas) - 1
    high, low = _range(sigmas, sigma_min, sigma_max)
    whole = calls // 3
    orders = [3] * (whole - 1) + [2, 1] if calls % 3 == 0 else [3] * whole + [calls % 3]
    ends = [high * (low / high) ** (i / len(orders)) for i in range(len(orders) + 1)]
    end = _lambda_like(x, low)
    for order, sigma, sigma_next in zip(orders, ends[:-1], ends[1:], strict=True):
        s, t = _lambda_like(x, sigma), _lambda_like(x, sigma_next)
        target, up = _ancestral_lambda(s, t, end, eta) if eta else (t, None)
        solver = _Solver(denoiser, x, s, target)
        x = (solver.first, solver.second, solver.third)[order - 1]()
        if eta:
            x = x + noise(sigma, sigma_next) * (up * s_noise)
    return x


_TRIALS = 2000


def sample_dpm_adaptive(
    denoiser, x, sigmas, *, noise=None, eta=1.0, s_noise=1.0, sigma_min=None, sigma_max=None,
    rtol=0.05, atol=0.0078, h_init=0.05, accept_safety=0.81,
):  # fmt: skip
    """DPM-Solver-23 with adaptive steps; every sample has its own, so none depends on its batch.

    Of `sigmas` only the ends count. A1111 runs it with eta 1. Raises ArithmeticError when the prediction is
    not finite.
    """
    high, low = _range(sigmas, sigma_min, sigma_max)
    s, end = _lambda_like(x, high), _lambda_like(x, low)
    h = s * 0 + h_init
    x_prev, draws = x, _Draws(noise, x)
    for _ in range(_TRIALS):
        running = s < end - 1e-5
        if not bool(running.any()):
            return x
        # Samples that are done go through the motions with a step that divides by no zero.
        t = (s + h).minimum(end).where(running, s + 0.1)
        target, up = _ancestral_lambda(s, t, end.where(running, t), eta) if eta else (t, 0.0)
        solver = _Solver(denoiser, x, s, target)
        x_low, x_high = solver.second(1 / 3), solver.third()
        scale = (x_low.abs().maximum(x_prev.abs()) * rtol).clamp(min=atol)
        error = (((x_low - x_high) / scale) ** 2).flatten(1).mean(1).sqrt().view_as(s)
        factor = 1 + ((1 / (error + 1e-8)) ** (1 / (1.5 if eta else 3)) - 1).atan()
        accept = running & (factor >= accept_safety)
        if eta:
            x_high = x_high + draws.take(accept) * (up * s_noise)
        x, x_prev, s = x_high.where(accept, x), x_low.where(accept, x_prev), t.where(accept, s)
        h = (h * factor).where(running, h)
    raise ArithmeticError("DPM adaptive found no step small enough: the prediction is not a finite number.")


class _Draws:
    """Noise for samples that do not advance together: each takes the draws of its own generator in order."""

    def __init__(self, noise, x):
        self.noise, self.x = noise, x
        self.drawn: list = []
        self.taken = [0] * x.shape[0]

    def take(self, which):
        """The next draw of every sample in `which` [B, 1, …]; zero elsewhere."""
        out = self.x * 0
        for i, chosen in enumerate(which.flatten().tolist()):
            if not chosen:
                continue
            while self.taken[i] >= len(self.drawn):
                self.drawn.append(self.noise(None, None))
            out[i] = self.drawn[self.taken[i]][i]
            self.taken[i] += 1
        return out
