"""A1111's samplers by label, the names that others give them, and the conventions around them.

The loops are in solvers/. `plan` says what A1111 runs for some settings: which schedule, where it starts,
from how much noise. No torch here, so that listing names is cheap.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from trainer.errors import UserError, nearest
from trainer.webui import solvers
from trainer.webui.schedules import SCHEDULES, float32, model_sigmas, sigma_of_t, sigmas, t_of_sigma

__all__ = [
    "SAMPLERS", "SCHEDULES", "Plan", "Sampler", "model_sigmas", "plan", "resolve", "sigma_of_t", "sigmas",
    "start_at", "t_of_sigma", "times",
]  # fmt: skip


# ── the table ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Sampler:
    """A sampler and what A1111 does around it.

    `schedule`: what "Automatic" means. `noise`: "stream" (one draw after the other), "brownian" (a path over
    σ) or "none". `eta`: A1111's default, None where the sampler has none. `times`: "sigmas" for a schedule
    type, else the sampler's own timesteps. `second_order`: two model calls a step, so A1111 reads prompt
    schedules over twice the steps. `quantize`: the model's time is rounded to one of so many.
    """

    label: str
    function: Callable
    schedule: str = "Uniform"
    noise: str = "none"
    uses_ensd: bool = False
    discards_penultimate: bool = False
    second_order: bool = False
    eta: float | None = None
    times: str = "sigmas"
    quantize: int | None = None
    options: Mapping[str, object] = field(default_factory=dict)

    def model_calls(self, steps: int) -> int:
        """The steps over which A1111 reads a prompt's schedule."""
        return steps * 2 if self.second_order else steps


def _table() -> dict[str, Sampler]:
    stream = {"noise": "stream", "uses_ensd": True, "eta": 1.0}
    brownian = {"noise": "brownian", "eta": 1.0}
    karras = {"schedule": "Karras"}
    exponential = {"schedule": "Exponential"}
    discards = {"discards_penultimate": True}
    heun = {"solver_type": "heun"}
    rows = [
        Sampler("DPM++ 2M", solvers.sample_dpmpp_2m, **karras),
        Sampler("DPM++ SDE", solvers.sample_dpmpp_sde, second_order=True, **karras, **brownian),
        Sampler("DPM++ 2M SDE", solvers.sample_dpmpp_2m_sde, **exponential, **brownian),
        Sampler("DPM++ 2M SDE Heun", solvers.sample_dpmpp_2m_sde, options=heun, **exponential, **brownian),
        Sampler("DPM++ 2S a", solvers.sample_dpmpp_2s_ancestral, second_order=True, **karras, **stream),
        Sampler("DPM++ 3M SDE", solvers.sample_dpmpp_3m_sde, **discards, **exponential, **brownian),
        Sampler("Euler a", solvers.sample_euler_ancestral, **stream),
        Sampler("Euler", solvers.sample_euler),
        Sampler("LMS", solvers.sample_lms),
        Sampler("Heun", solvers.sample_heun, second_order=True),
        Sampler("DPM2", solvers.sample_dpm_2, second_order=True, **discards, **karras),
        Sampler("DPM2 a", solvers.sample_dpm_2_ancestral, second_order=True, **discards, **karras, **stream),
        Sampler("DPM fast", solvers.sample_dpm_fast, **stream),
        Sampler("DPM adaptive", solvers.sample_dpm_adaptive, **stream),
        Sampler("Restart", solvers.sample_restart, noise="stream", second_order=True, **karras),
        Sampler("DDIM", solvers.sample_ddim, noise="stream", eta=0.0, times="ddim"),
        Sampler("PLMS", solvers.sample_plms, times="ddim"),
        Sampler("UniPC", solvers.sample_unipc, times="unipc"),
        Sampler("LCM", solvers.sample_lcm, noise="stream", times="lcm", quantize=50),
    ]
    return {row.label: row for row in rows}


SAMPLERS: dict[str, Sampler] = _table()

# Names by which other tools and older versions call the same thing, as `_key` writes them.
_ALIASES = {
    "dpm2ancestral": "DPM2 a", "kdpm2": "DPM2", "kdpm2a": "DPM2 a", "kdpm2ancestral": "DPM2 a",
    "dpm2a": "DPM2 a", "eulerancestral": "Euler a", "eulera": "Euler a", "dpmad": "DPM adaptive",
    "dpmpp2sancestral": "DPM++ 2S a", "dpmpp2sa": "DPM++ 2S a", "dpmppsdegpu": "DPM++ SDE",
    "dpmpp2msdegpu": "DPM++ 2M SDE", "dpmpp3msdegpu": "DPM++ 3M SDE",
    "dpmpp2msdeheungpu": "DPM++ 2M SDE Heun", "unipcbh2": "UniPC", "pndm": "PLMS", "dpmsolverpp": "DPM++ 2M",
}  # fmt: skip
_SCHEDULE_ALIASES = {
    "ka": "Karras", "k": "Karras", "exp": "Exponential", "polyexp": "Polyexponential",
    "ays": "Align Your Steps", "ddimuniform": "DDIM", "sgm": "SGM Uniform",
}  # fmt: skip


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))


_SAMPLER_KEYS = {_key(label): label for label in SAMPLERS} | _ALIASES
_SCHEDULE_KEYS = {_key(label): label for label in SCHEDULES} | _SCHEDULE_ALIASES


def resolve(sampler: str, schedule: str | None = None) -> tuple[Sampler, str]:
    """(Sampler, schedule label) for names as people write them; "Automatic" gives the sampler's own schedule.

    Understands A1111's labels, its old ones with the schedule behind ("DPM++ 2M Karras"), and the names of
    ComfyUI, InvokeAI and k-diffusion. Raises UserError with the nearest names.
    """
    found, suffix = _find_sampler(sampler)
    label = _SCHEDULE_KEYS.get(_key(schedule or "Automatic"))
    if label is None:
        raise UserError(f"There is no schedule type {schedule!r}: {nearest(schedule, SCHEDULES)}")
    if label == "Automatic":
        label = suffix or SAMPLERS[found].schedule
    return SAMPLERS[found], label


def _find_sampler(name: str) -> tuple[str, str | None]:
    key = _key(name)
    for candidate in (key, key.removeprefix("k"), key.removeprefix("sample")):
        if candidate in _SAMPLER_KEYS:
            return _SAMPLER_KEYS[candidate], None
        for end in sorted(_SCHEDULE_KEYS, key=len, reverse=True):
            stem = candidate.removesuffix(end)
            if stem != candidate and stem in _SAMPLER_KEYS:
                return _SAMPLER_KEYS[stem], _SCHEDULE_KEYS[end]
    raise UserError(f"There is no sampler {name!r}: {nearest(name, SAMPLERS)}")


# ── A1111's conventions around a sampler ───────────────────────────────────────────────────────────────


def times(model: Sequence[float], sigma, quantize: int | None = None):
    """The model's timesteps for a tensor of σ [B], as float; with `quantize`, those that LCM was taught."""
    if quantize:
        skip = len(model) // quantize
        values = [_nearest_time(model[skip - 1 :: skip], s) * skip + skip - 1 for s in sigma.tolist()]
    else:
        values = [t_of_sigma(model, s) for s in sigma.tolist()]
    return sigma.new_tensor(values)


def _nearest_time(model: Sequence[float], sigma: float) -> int:
    return min(range(len(model)), key=lambda i: abs(math.log(model[i] / max(sigma, 1e-10))))


def start_at(steps: int, denoise: float, *, exact: bool = False) -> tuple[int, int]:
    """(steps of the whole schedule, steps that run) of A1111's image-to-image.

    Plain image-to-image runs int(denoise·steps) + 1 of `steps`; the hires pass (`exact`) runs `steps` of a
    longer schedule. At most 0.999 of a schedule is run; a denoise of 0 runs nothing.
    """
    if denoise <= 0:
        return 0, 0
    part = min(denoise, 0.999)
    return (int(steps / part), steps) if exact else (steps, int(part * steps) + 1)


@dataclass(frozen=True)
class Plan:
    """A sampler with its σ, ready to run: `run(denoiser, start(noise, latents), noise)`."""

    sampler: Sampler
    schedule: str
    sigmas: tuple[float, ...]
    sigma_noise: float
    tree: tuple[float, float] = (0.0, 1.0)
    options: Mapping[str, object] = field(default_factory=dict)

    def start(self, noise, latents=None, *, sgm_noise_multiplier: bool = False):
        """The noisy latents of the first step from unit noise, and for image-to-image the clean latents.

        A pass from pure noise starts from σ·noise as A1111 does, or sqrt(1 + σ²)·noise as ComfyUI does and
        A1111 with `sgm_noise_multiplier`. DDIM, PLMS and UniPC always start from unit variance.
        """
        if self.sampler.times in ("ddim", "unipc"):
            if latents is None:
                return noise * math.sqrt(1 + self.sigmas[0] ** 2)
            mixed = (latents + noise * self.sigma_noise) / math.sqrt(1 + self.sigma_noise**2)
            # A1111 adds the noise of one step above the one that it begins with.
            return mixed * math.sqrt(1 + self.sigmas[0] ** 2) if self.sigmas else mixed
        if latents is not None:
            return latents + noise * self.sigma_noise
        sigma = self.sigma_noise
        return noise * (math.sqrt(1 + sigma**2) if sgm_noise_multiplier else sigma)

    def run(self, denoiser, x, noise=None, **options):
        """Sample; `noise(sigma, sigma_next)`, or None where the sampler draws none."""
        if len(self.sigmas) < 2:
            return x
        return self.sampler.function(denoiser, x, self.sigmas, noise=noise, **{**self.options, **options})


def plan(
    sampler: str,
    schedule: str | None,
    model: Sequence[float],
    steps: int,
    *,
    denoise: float | None = None,
    hires: bool = False,
    discard_penultimate: bool = False,
    **options,
) -> Plan:
    """What A1111 runs for these settings.

    `denoise` None is a pass from pure noise; a number is image-to-image, or with `hires` the second pass,
    which runs exactly `steps`. `discard_penultimate` asks for it also where the sampler does not do it by
    itself. `options` go to the schedule (rho, sigma_min, sigma_max, sdxl, alpha, beta).
    """
    found, label = resolve(sampler, schedule)
    discard = discard_penultimate or found.discards_penultimate
    total, runs = (steps, steps) if denoise is None else start_at(steps, denoise, exact=hires)
    if not runs:
        return Plan(found, label, (), 0.0)
    if found.times in ("ddim", "unipc"):
        return _timestep_plan(found, label, model, total + discard, None if denoise is None else runs - 1)
    if found.times == "lcm":
        skip = len(model) // found.quantize
        model = model[skip - 1 :: skip]
    whole = sigmas(model, total, label, discard_penultimate=discard, **options)
    # Some schedules have a few steps more than asked for; what A1111 leaves out is counted from the front.
    values = tuple(whole if denoise is None else whole[total - runs :])
    extra = dict(found.options)
    if found.function in (solvers.sample_dpm_fast, solvers.sample_dpm_adaptive) and denoise is None:
        extra |= {"sigma_min": float32(model[0]), "sigma_max": float32(model[-1])}
    positive = [value for value in whole if value > 0]
    return Plan(found, label, values, values[0], (min(positive), max(positive)), extra)


def _timestep_plan(sampler: Sampler, label: str, model, steps: int, count: int | None) -> Plan:
    """A1111's own timesteps for DDIM, PLMS and UniPC: every (1000//steps)-th, plus one.

    `count` is the number that image-to-image keeps from below, None for all.
    """
    indices = [min(t + 1, len(model) - 1) for t in range(0, len(model), max(len(model) // steps, 1))]
    kept = indices if count is None else indices[:count]
    noise = model[indices[min(count, len(indices) - 1)]] if count is not None else model[indices[-1]]
    if not kept:
        return Plan(sampler, label, (), float32(noise))
    if sampler.times == "ddim":
        values = [model[t] for t in reversed(kept)]
    else:
        top = len(model) - 1 if count is None else kept[-1]
        values = [_vp_sigma(model, top * (1 - i / len(kept))) for i in range(len(kept) + 1)]
    return Plan(sampler, label, tuple(float32(value) for value in values), float32(noise))


def _vp_sigma(model: Sequence[float], t: float) -> float:
    """σ at a fractional timestep, linear in log ᾱ as UniPC's authors interpolate."""
    logs = [-math.log1p(model[i] ** 2) for i in (int(t), min(int(t) + 1, len(model) - 1))]
    return math.sqrt(math.expm1(-(logs[0] + (logs[1] - logs[0]) * (t - int(t)))))
