import math
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from trainer.errors import UserError  # noqa: E402
from trainer.webui import solvers  # noqa: E402
from trainer.webui.noise import BrownianNoise, NoiseSource  # noqa: E402
from trainer.webui.samplers import SAMPLERS, SCHEDULES, plan, resolve, sigmas, start_at, times  # noqa: E402
from trainer.webui.schedules import beta_quantile, model_sigmas, sigma_of_t, t_of_sigma  # noqa: E402
from trainer.webui.solvers.single import _restart_steps  # noqa: E402

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
MODEL = model_sigmas(ALPHAS)
MEAN, STD = 0.7, 0.5


def gaussian(x, sigma):
    """The best prediction for data N(MEAN, STD²)."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def curved(x, sigma):
    """A prediction without a closed form, which tells samplers apart."""
    sigma = sigma.view(-1, *[1] * (x.ndim - 1))
    return (STD**2 * x + sigma**2 * MEAN + 0.3 * sigma * torch.sin(x)) / (STD**2 + sigma**2)


def exact(x, sigma, sigma_next):
    """The probability-flow ODE of `gaussian`, solved."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + sigma_next**2) / (STD**2 + sigma**2))


def start(shape=(2, 4, 8, 8), dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def noise_for(made, shape=(4, 8, 8), seeds=(1, 2), **options):
    if made.sampler.noise == "brownian":
        return BrownianNoise(shape, seeds, made.tree, "CPU", "cpu")
    return NoiseSource(shape, seeds, "CPU", device="cpu", **options)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


# ── against closed forms ───────────────────────────────────────────────────────────────────────────────

ORDERS = [
    (solvers.sample_euler, {}, 1),
    (solvers.sample_euler_ancestral, {"eta": 0.0}, 1),
    (solvers.sample_heun, {}, 2),
    (solvers.sample_dpm_2, {}, 2),
    (solvers.sample_dpm_2_ancestral, {"eta": 0.0}, 2),
    (solvers.sample_dpmpp_2s_ancestral, {"eta": 0.0}, 2),
    (solvers.sample_dpmpp_sde, {"eta": 0.0}, 2),
    (solvers.sample_dpmpp_2m, {}, 2),
    (solvers.sample_dpmpp_2m_sde, {"eta": 0.0}, 2),
    (solvers.sample_dpmpp_2m_sde, {"eta": 0.0, "solver_type": "heun"}, 2),
    (solvers.sample_dpmpp_3m_sde, {"eta": 0.0}, 2),
    (solvers.sample_restart, {"s_noise": 0.0}, 2),
    (solvers.sample_lms, {}, 2),
    (solvers.sample_plms, {}, 2),
    (solvers.sample_ddim, {}, 1),
    # Its first and last steps are of lower order, which the whole inherits.
    (solvers.sample_unipc, {}, 2),
    (solvers.sample_dpm_fast, {"eta": 0.0}, 3),
]


@pytest.mark.parametrize(("function", "options", "order"), ORDERS)
def test_convergence_to_the_exact_solution(function, options, order):
    high, low = 5.0, 0.2
    x = start((1, 64), torch.float64) * high
    scaled = function in (solvers.sample_ddim, solvers.sample_plms, solvers.sample_unipc)
    truth = exact(x, high, low) / (math.sqrt(1 + low**2) if scaled else 1)
    errors = []
    # Restart has no restarts below 20 steps; two calls over a multiple of three end in a step of order 2.
    counts = {solvers.sample_restart: (4, 8, 16), solvers.sample_dpm_fast: (17, 35, 71)}
    for steps in counts.get(function, (32, 64, 128)):
        values = [high * (low / high) ** (i / steps) for i in range(steps + 1)]
        result = function(gaussian, x, values, noise=lambda *_: torch.zeros_like(x), **options)
        errors.append((result - truth).norm().item())
    rates = [math.log2(a / b) for a, b in zip(errors[:-1], errors[1:], strict=True)]
    assert errors[-1] / truth.norm() < 0.005
    assert rates[-1] > order - 0.25


def test_the_adaptive_sampler_is_as_exact_as_asked():
    x = start((2, 64), torch.float64) * 5
    result = solvers.sample_dpm_adaptive(gaussian, x, [5.0, 0.2], eta=0.0, rtol=1e-5, atol=1e-6)
    assert relative(result, exact(x, 5.0, 0.2)) < 1e-4


def adaptive_calls(**options):
    calls = []

    def denoiser(x, sigma):
        calls.append(1)
        return curved(x, sigma)

    solvers.sample_dpm_adaptive(denoiser, start((1, 64)) * 5, [5.0, 0.2], eta=0.0, **options)
    return len(calls)


def test_the_adaptive_sampler_works_harder_for_more():
    assert adaptive_calls(rtol=1e-3, atol=1e-4) > 1.5 * adaptive_calls()


def test_a_prediction_that_is_no_number_ends_the_adaptive_sampler():
    with pytest.raises(ArithmeticError):
        solvers.sample_dpm_adaptive(lambda x, sigma: x * math.nan, start((1, 4)), [5.0, 0.2], eta=0.0)


@pytest.mark.parametrize("label", [label for label, row in SAMPLERS.items() if row.noise != "none"])
def test_stochastic_samplers_keep_the_distribution(label):
    steps, shape = 300 if label == "Euler a" else 100, (1, 20000)
    made = plan(label, None, MODEL, steps)
    noise = noise_for(made, shape[1:], (5,))
    options = {"DDIM": {"eta": 1.0}, "DPM adaptive": {"rtol": 1e-3}}.get(label, {})
    first = NoiseSource(shape[1:], (6,), "CPU", device="cpu").initial()
    result = made.run(gaussian, made.start(first), noise, **options)
    if label == "LCM":
        # It ends in a prediction, which spreads less than the data.
        assert result.mean().item() == pytest.approx(MEAN, abs=0.02)
        return
    assert result.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert result.std().item() == pytest.approx(STD, rel=0.05)


# ── against diffusers ──────────────────────────────────────────────────────────────────────────────────


def config():
    return {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def run_sigma_space(scheduler, x, generator=None):
    """A diffusers scheduler that works on x0 + σ·noise."""
    for t in scheduler.timesteps:
        index = scheduler.step_index if scheduler.step_index is not None else 0
        sigma = float(scheduler.sigmas[index])
        eps = (x - curved(x, x.new_full((x.shape[0],), sigma))) / sigma
        scheduler.scale_model_input(x, t)
        extra = {"generator": generator} if generator else {}
        x = scheduler.step(eps, t, x, **extra).prev_sample
    return x


@pytest.mark.parametrize(
    ("label", "name", "schedule"),
    [
        ("Euler", "EulerDiscreteScheduler", "Karras"),
        ("Euler", "EulerDiscreteScheduler", "Align Your Steps"),
        ("Heun", "HeunDiscreteScheduler", "Uniform"),
        ("LMS", "LMSDiscreteScheduler", "Uniform"),
    ],
)
def test_deterministic_samplers_against_diffusers(label, name, schedule):
    diffusers = pytest.importorskip("diffusers")
    if label == "LMS":
        pytest.importorskip("scipy")
    made = plan(label, schedule, MODEL, 20)
    scheduler = getattr(diffusers, name)(**config(), timestep_spacing="linspace")
    if label == "Euler":
        scheduler.set_timesteps(sigmas=list(made.sigmas))
    else:
        scheduler.set_timesteps(20)
    x = start() * made.sigmas[0]
    assert relative(made.run(curved, x), run_sigma_space(scheduler, x)) < 1e-4


def test_euler_a_against_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**config(), timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    made = plan("Euler a", None, MODEL, 20)
    x = start() * made.sigmas[0]
    drawn = torch.Generator().manual_seed(3)
    ours = made.run(curved, x, lambda *_: torch.randn(x.shape, generator=drawn))
    assert relative(ours, run_sigma_space(scheduler, x, torch.Generator().manual_seed(3))) < 1e-4


def run_unit_variance(scheduler, values, x):
    """A diffusers scheduler that works on α·(x0 + σ·noise), with its σ overwritten by ours."""
    scheduler.set_timesteps(len(values) - 1)
    scheduler.sigmas = torch.tensor(values)
    scheduler.timesteps = torch.tensor([t_of_sigma(MODEL, value) for value in values[:-1]])
    scheduler.set_begin_index(0)
    x = x / math.sqrt(1 + values[0] ** 2)
    for value, t in zip(values[:-1], scheduler.timesteps, strict=True):
        alpha = 1 / math.sqrt(1 + value**2)
        eps = (x / alpha - curved(x / alpha, x.new_full((x.shape[0],), value))) / value
        x = scheduler.step(eps, t, x).prev_sample
    return x


def test_dpmpp_2m_against_diffusers():
    diffusers = pytest.importorskip("diffusers")
    made = plan("DPM++ 2M", None, MODEL, 20)
    x = start() * made.sigmas[0]
    scheduler = diffusers.DPMSolverMultistepScheduler(**config(), final_sigmas_type="zero", lower_order_final=True)
    scheduler.config.euler_at_final = True
    assert relative(made.run(curved, x), run_unit_variance(scheduler, made.sigmas, x)) < 1e-4


def test_unipc_against_diffusers():
    diffusers = pytest.importorskip("diffusers")
    made = plan("UniPC", None, MODEL, 20)
    x = made.start(start())
    scheduler = diffusers.UniPCMultistepScheduler(
        **config(), solver_order=3, solver_type="bh1", final_sigmas_type="sigma_min"
    )
    assert relative(made.run(curved, x), run_unit_variance(scheduler, made.sigmas, x)) < 1e-4


def test_dpm_2_against_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.KDPM2DiscreteScheduler(**config(), timestep_spacing="linspace")
    scheduler.set_timesteps(20)
    x = start() * MODEL[-1]
    ours = solvers.sample_dpm_2(curved, x, sigmas(MODEL, 20, "Uniform"))
    for t in scheduler.timesteps:
        index = scheduler.step_index if scheduler.step_index is not None else 0
        first = scheduler.state_in_first_order
        sigma = float(scheduler.sigmas[index] if first else scheduler.sigmas_interpol[index])
        if index == 0 and first and scheduler.step_index is None:
            reference = x
        eps = (reference - curved(reference, reference.new_full((2,), sigma))) / sigma
        reference = scheduler.step(eps, t, reference).prev_sample
    assert relative(ours, reference) < 1e-4


def test_ddim_is_a1111s_loop_over_its_timesteps():
    """Song et al. 2020, equation 12, with the timesteps 951, 901, … 51, 1 of 20 steps: 19 evaluations."""
    made = plan("DDIM", None, MODEL, 20)
    steps = list(range(1, 1000, 50))
    assert [round(t_of_sigma(MODEL, value)) for value in made.sigmas] == steps[::-1]
    n = start()
    ours = made.run(curved, made.start(n))
    x = n
    for t, t_next in zip(steps[:0:-1], steps[-2::-1], strict=True):
        a, a_next = ALPHAS[t].double(), ALPHAS[t_next].double()
        sigma = ((1 - a) / a).sqrt().item()
        x0 = curved(x / a.sqrt(), x.new_full((2,), sigma))
        eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
        x = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps
    assert relative(ours, x) < 1e-4


# ── what samplers do with noise and calls ──────────────────────────────────────────────────────────────

CALLS = {
    "DPM++ 2M": (20, 0), "DPM++ SDE": (39, 38), "DPM++ 2M SDE": (20, 19), "DPM++ 2M SDE Heun": (20, 19),
    "DPM++ 2S a": (39, 19), "DPM++ 3M SDE": (20, 19), "Euler a": (20, 19), "Euler": (20, 0), "LMS": (20, 0),
    "Heun": (39, 0), "DPM2": (39, 0), "DPM2 a": (39, 19), "DPM fast": (20, 7), "Restart": (39, 1),
    "DDIM": (19, 0), "PLMS": (20, 0), "UniPC": (20, 0), "LCM": (20, 19),
}  # fmt: skip


def test_the_whole_table_is_counted():
    assert set(CALLS) | {"DPM adaptive"} == set(SAMPLERS)


@pytest.mark.parametrize("label", CALLS)
def test_model_calls_and_draws(label):
    calls, draws = [], []
    x = start()

    def denoiser(x, sigma):
        assert sigma.shape == (2,)
        calls.append(1)
        return gaussian(x, sigma)

    made = plan(label, None, MODEL, 20)
    result = made.run(denoiser, made.start(x), lambda *_: draws.append(1) or torch.zeros_like(x))
    assert (len(calls), len(draws)) == CALLS[label]
    assert torch.isfinite(result).all()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 12, 37])
@pytest.mark.parametrize("label", SAMPLERS)
def test_few_steps_and_many(label, steps):
    made = plan(label, None, MODEL, steps)
    noise = noise_for(made)
    assert torch.isfinite(made.run(gaussian, made.start(start()), noise)).all()


@pytest.mark.parametrize("label", SAMPLERS)
def test_a_batch_is_its_pictures_alone(label):
    made = plan(label, None, MODEL, 21)
    seeds, shape = (3, 4, 2**33 + 5), (4, 8, 8)

    def render(seeds):
        first = NoiseSource(shape, seeds, "CPU", device="cpu", ensd=31337)
        x = made.start(first.initial())
        return made.run(curved, x, noise_for(made, shape, seeds) if made.sampler.noise == "brownian" else first)

    alone = torch.cat([render([seed]) for seed in seeds])
    assert relative(render(seeds), alone) < 1e-6


@pytest.mark.parametrize("label", ["Euler", "Heun", "DPM2"])
def test_churn_adds_noise_within_its_range(label):
    made = plan(label, None, MODEL, 10)
    x, used = made.start(start()), []

    def noise(sigma, sigma_next):
        used.append(sigma)
        return torch.ones_like(x)

    plain = made.run(gaussian, x)
    assert torch.equal(plain, made.run(gaussian, x, noise, s_churn=0.0))
    assert not torch.equal(plain, made.run(gaussian, x, noise, s_churn=5.0, s_tmin=1.0, s_tmax=5.0))
    assert len(used) == 10


def test_restart_goes_back_once_from_20_steps_and_twice_from_36():
    for steps, times_back in ((19, 0), (20, 1), (36, 2)):
        pairs = _restart_steps(sigmas(MODEL, steps, "Karras"))
        back = [i for i in range(1, len(pairs)) if pairs[i][0] > pairs[i - 1][1]]
        assert (len(pairs), len(back)) == (steps, times_back)


# ── schedules ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("label", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 10, 20, 37])
def test_schedules_fall(label, steps):
    values = sigmas(MODEL, steps, label)
    assert values == sorted(values, reverse=True)
    assert len(values) == steps + 1 or label == "DDIM"
    assert label == "KL Optimal" or values[-1] == 0
    if label not in ("DDIM", "Align Your Steps"):
        assert values[0] == pytest.approx(MODEL[-1])


def test_karras_is_the_papers():
    values = sigmas(MODEL, 10, "Karras", rho=7.0)
    low, high = MODEL[0] ** (1 / 7), MODEL[-1] ** (1 / 7)
    assert values[:-1] == pytest.approx([(high + i / 9 * (low - high)) ** 7 for i in range(10)], rel=1e-6)


def test_align_your_steps_passes_its_table():
    assert sigmas(MODEL, 11, "Align Your Steps")[3] == pytest.approx(2.697)
    assert sigmas(MODEL, 11, "Align Your Steps", sdxl=True)[3] == pytest.approx(2.181)


def test_kl_optimal_ends_above_zero():
    assert sigmas(MODEL, 10, "KL Optimal")[-1] == pytest.approx(MODEL[0])


def test_discarding_the_penultimate_sigma():
    assert sigmas(MODEL, 10, "Karras", discard_penultimate=True) == [*sigmas(MODEL, 11, "Karras")[:-2], 0.0]


def test_beta_quantiles():
    # I_x(1/2, 1/2) is the arcsine distribution, I_x(1, b) a power.
    for p in (0.01, 0.3, 0.5, 0.9):
        assert beta_quantile(p, 0.5, 0.5) == pytest.approx(math.sin(math.pi * p / 2) ** 2)
        assert beta_quantile(p, 1, 3) == pytest.approx(1 - (1 - p) ** (1 / 3))


def test_time_and_sigma_are_inverse():
    for t in (0, 0.25, 1, 499.5, 998.9, 999):
        assert t_of_sigma(MODEL, sigma_of_t(MODEL, t)) == pytest.approx(t, abs=1e-6)
    assert t_of_sigma(MODEL, 1e9) == 999
    assert t_of_sigma(MODEL, 1e-9) == t_of_sigma(MODEL, 0.0) == 0


def test_lcm_sees_only_the_times_it_was_taught():
    made = plan("LCM", None, MODEL, 8)
    seen = times(MODEL, torch.tensor(made.sigmas[:-1]), made.sampler.quantize)
    assert seen[0] == 999
    assert all(t % 20 == 19 for t in seen.tolist())
    assert times(MODEL, torch.tensor([MODEL[100]])).item() == pytest.approx(100)


# ── conventions ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps", "denoise", "exact", "expected"),
    [
        (20, 0.5, False, (20, 11)), (20, 1.0, False, (20, 20)), (20, 0.04, False, (20, 1)),
        (20, 0, False, (0, 0)),
        (20, 0.5, True, (40, 20)), (20, 1.0, True, (20, 20)), (15, 0.7, True, (21, 15)),
        (20, 0.0, True, (0, 0)),
    ],
)  # fmt: skip
def test_where_image_to_image_starts(steps, denoise, exact, expected):
    assert start_at(steps, denoise, exact=exact) == expected


@pytest.mark.parametrize("label", SAMPLERS)
@pytest.mark.parametrize("hires", [False, True])
def test_image_to_image_keeps_the_picture_at_low_denoise(label, hires):
    latents = torch.full((2, 4, 8, 8), MEAN)
    made = plan(label, None, MODEL, 20, denoise=0.2, hires=hires)
    if made.sampler.times == "sigmas":
        assert len(made.sigmas) - 1 == (20 if hires else 5)
    x = made.start(start(), latents)
    result = made.run(lambda x, sigma: latents, x, noise_for(made))
    # DDIM, PLMS and KL Optimal leave the noise of the last σ in.
    assert relative(result, latents) < 0.08


def test_no_denoise_leaves_the_latents():
    made = plan("Euler", None, MODEL, 20, denoise=0.0)
    latents = start()
    assert torch.equal(made.run(gaussian, made.start(torch.ones_like(latents), latents)), latents)


def test_ddim_image_to_image_is_a1111s():
    """A1111 keeps timesteps[:t_enc] and adds the noise of timesteps[t_enc]."""
    made = plan("DDIM", None, MODEL, 20, denoise=0.5)
    assert [round(t_of_sigma(MODEL, value)) for value in made.sigmas] == list(range(1, 500, 50))[::-1]
    assert made.sigma_noise == pytest.approx(MODEL[501], rel=1e-6)
    latents, n = start(), torch.ones(2, 4, 8, 8)
    a = ALPHAS[501].double()
    mixed = a.sqrt() * latents + (1 - a).sqrt() * n
    x = made.start(n, latents) / math.sqrt(1 + made.sigmas[0] ** 2)
    assert relative(x, mixed) < 1e-6


def test_start_noise():
    n = start()
    made = plan("Euler", None, MODEL, 20)
    assert torch.allclose(made.start(n), n * MODEL[-1])
    assert torch.allclose(made.start(n, sgm_noise_multiplier=True), n * math.sqrt(1 + MODEL[-1] ** 2))


@pytest.mark.parametrize(
    ("name", "schedule", "expected"),
    [
        ("DPM++ 2M Karras", None, ("DPM++ 2M", "Karras")),
        ("DPM++ 2M", "Automatic", ("DPM++ 2M", "Karras")),
        ("dpm++ 2m sde exponential", None, ("DPM++ 2M SDE", "Exponential")),
        ("DPM++ 2M SDE Heun Karras", "", ("DPM++ 2M SDE Heun", "Karras")),
        ("Euler a", None, ("Euler a", "Uniform")),
        ("euler_ancestral", "normal", ("Euler a", "Normal")),
        ("k_euler_a", None, ("Euler a", "Uniform")),
        ("k_dpmpp_2m_ka", None, ("DPM++ 2M", "Karras")),
        ("dpmpp_2m", "sgm_uniform", ("DPM++ 2M", "SGM Uniform")),
        ("dpmpp_2m_sde_gpu", "ddim_uniform", ("DPM++ 2M SDE", "DDIM")),
        ("DPM2 a Karras", None, ("DPM2 a", "Karras")),
        ("kdpm_2_a", None, ("DPM2 a", "Karras")),
        ("uni_pc", "SGMUniform", ("UniPC", "SGM Uniform")),
        ("LMS Karras", None, ("LMS", "Karras")),
        ("DPM++ 2M Karras", "Exponential", ("DPM++ 2M", "Exponential")),
    ],
)
def test_names_as_people_write_them(name, schedule, expected):
    sampler, label = resolve(name, schedule)
    assert (sampler.label, label) == expected


@pytest.mark.parametrize("label", SAMPLERS)
def test_every_label_means_itself(label):
    assert resolve(label) == (SAMPLERS[label], SAMPLERS[label].schedule)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UserError, match="DPM\\+\\+ 2M"):
        resolve("DPM++ 2N")
    with pytest.raises(UserError, match="Karras"):
        resolve("Euler", "Karas")


def test_listing_is_cheap():
    code = (
        "import sys; from trainer.webui import foreign, infotext, prompt, samplers;"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
