"""Methods that read the predictions of earlier steps: LMS, DPM-Solver++ 2M and 3M, UniPC."""

import math

from trainer.webui.solvers.steps import denoise, pairs, towards


def sample_lms(denoiser, x, sigmas, *, noise=None, order=4):
    """Linear multistep: the polynomial through the last four slopes, integrated (Adams–Bashforth)."""
    values = [float(sigma) for sigma in sigmas]
    slopes = []
    for i in range(len(values) - 1):
        slopes = [(x - denoise(denoiser, x, values[i])) / values[i], *slopes][:order]
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
    for sigma, sigma_next in pairs(sigmas):
        denoised = denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        mixed = denoised if old is None else denoised + (denoised - old) * (h / (2 * h_old))
        x = towards(x, mixed, sigma, sigma_next)
        old, h_old = denoised, h
    return x


def sample_dpmpp_2m_sde(denoiser, x, sigmas, *, noise, eta=1.0, s_noise=1.0, solver_type="midpoint"):
    """DPM-Solver++(2M) for the SDE; `solver_type` midpoint or heun; noise from a Brownian path."""
    old, h_old = None, 0.0
    for sigma, sigma_next in pairs(sigmas):
        denoised = denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        whole = h * (1 + eta)
        x = towards(x, denoised, sigma, sigma * math.exp(-whole))
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
    for sigma, sigma_next in pairs(sigmas):
        denoised = denoise(denoiser, x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        whole = h * (1 + eta)
        x = towards(x, denoised, sigma, sigma * math.exp(-whole))
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
    history = [(denoise(denoiser, x, values[0]), values[0])]
    for i in range(1, steps + 1):
        size = min(order, i, steps + 1 - i)
        base, weights, corrected = _unipc_weights(history[:size], values[i])
        start = towards(x, history[0][0], values[i - 1], values[i])
        x = start - _weighted_differences(history, weights) * base
        if i < steps:
            denoised = denoise(denoiser, x, values[i])
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
