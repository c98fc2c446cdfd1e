"""Methods that A1111 runs over timesteps of their own: DDIM, PLMS, LCM."""

import math

from trainer.webui.solvers.steps import denoise, pairs, towards


def sample_ddim(denoiser, x, sigmas, *, noise=None, eta=0.0):
    """DDIM (Song et al. 2020, arXiv:2010.02502, equation 12), as A1111 loops it: the last σ is not zero.

    The latent is scaled by α of that σ, as it comes out there.
    """
    for sigma, sigma_next in pairs(sigmas):
        denoised = denoise(denoiser, x, sigma)
        alpha, alpha_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        added = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next))
        kept = math.sqrt((1 - alpha_next - added**2) / alpha_next)
        x = towards(x, denoised, sigma, kept)
        if eta:
            x = x + noise(sigma, sigma_next) * (added / math.sqrt(alpha_next))
    return x / math.sqrt(1 + float(sigmas[-1]) ** 2) if len(sigmas) else x


def sample_plms(denoiser, x, sigmas, *, noise=None):
    """PLMS (Liu et al. 2022, arXiv:2202.09778): DDIM steps along a multistep mean of the predicted noise."""
    weights = {1: (3 / 2, -1 / 2), 2: (23 / 12, -16 / 12, 5 / 12), 3: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    olds: list = []
    for sigma, sigma_next in pairs(sigmas):
        slope = (x - denoise(denoiser, x, sigma)) / sigma
        if olds:
            mean = sum(w * s for w, s in zip(weights[len(olds)], [slope, *olds], strict=True))
        else:
            ahead = x + slope * (sigma_next - sigma)
            mean = (slope + (ahead - denoise(denoiser, ahead, sigma_next)) / sigma_next) / 2
        x = x + mean * (sigma_next - sigma)
        olds = [slope, *olds][:3]
    return x / math.sqrt(1 + float(sigmas[-1]) ** 2) if len(sigmas) else x


def sample_lcm(denoiser, x, sigmas, *, noise):
    """Latent consistency sampling (Luo et al. 2023, arXiv:2310.04378): denoise fully, add noise again.

    Its boundary weights differ from 0 and 1 by less than 1e-5 and are left out.
    """
    for sigma, sigma_next in pairs(sigmas):
        x = denoise(denoiser, x, sigma)
        if sigma_next > 0:
            x = x + noise(sigma, sigma_next) * sigma_next
    return x
