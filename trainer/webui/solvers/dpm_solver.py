"""DPM-Solver, fast and adaptive (Lu et al. 2022, arXiv:2206.00927), in λ = −log σ.

Here λ is a tensor [B, 1, …], as the adaptive sampler gives every sample its own steps.
"""

import math


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
