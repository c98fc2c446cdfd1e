"""Every optimizer learns, resumes to the same bits, and takes its own arguments and no others."""

import io
import itertools
import signal
import sys

import pytest
import torch
import trainees
from safetensors.torch import load_file

from trainer import __main__ as command_line
from trainer import checks, optimizers, presets
from trainer.adapters import KINDS
from trainer.errors import UserError
from trainer.schedules import SCHEDULES
from trainer.texts import about

# Enough for each to get somewhere within thirty steps of a small problem.
RATES = {"Prodigy": 1.0, "DAdaptAdam": 1.0, "SGD": 1.0, "SGDNesterov": 0.3}
ARGS = {"Prodigy": "d0=1e-3", "DAdaptAdam": "d0=1e-3", "AdamW8bit": "min_8bit_size=16", "Lion8bit": "min_8bit_size=16"}


def problem(name: str):
    """(weights, optimizer): a LoRA's two shapes, a linear's and a 1×1 convolution's, with noise to fit."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((4, 64), (64, 4), (4, 16, 1, 1))
    ]
    rate = RATES.get(name, 0.05)
    groups = [
        {"params": weights[:2], "lr": rate, "base_lr": rate, "name": "unet"},
        {"params": weights[2:], "lr": rate, "base_lr": rate, "name": "text_encoder"},
    ]
    return weights, optimizers.build(name, groups, ARGS.get(name, ""))


def steps(weights, optimizer, first: int, last: int) -> list[float]:
    losses = []
    for _ in range(first, last):
        loss = sum((weight - 0.5).square().mean() for weight in weights)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def switch(optimizer, mode: str) -> None:
    if hasattr(optimizer, mode):
        getattr(optimizer, mode)()


@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_each_learns(name):
    weights, optimizer = problem(name)
    switch(optimizer, "train")
    losses = steps(weights, optimizer, 0, 30)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_each_goes_on_from_its_saved_state_to_the_same_bits(name):
    weights, optimizer = problem(name)
    switch(optimizer, "train")
    steps(weights, optimizer, 0, 3)
    file = io.BytesIO()
    torch.save({"weights": [weight.detach().clone() for weight in weights], "state": optimizer.state_dict()}, file)
    steps(weights, optimizer, 3, 6)

    others, again = problem(name)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    with torch.no_grad():
        for weight, value in zip(others, saved["weights"]):
            weight.copy_(value)
    switch(again, "train")
    again.load_state_dict(saved["state"])
    steps(others, again, 3, 6)
    assert all(torch.equal(a, b) for a, b in zip(weights, others))


@pytest.mark.parametrize("name", ["AdamW", "SGD", "SGDNesterov"])
def test_the_update_is_one_kernel_where_torch_has_one(name):
    weights, optimizer = problem(name)
    assert all(group["fused"] for group in optimizer.param_groups)
    others, _ = problem(name)
    rate = optimizer.param_groups[0]["lr"]
    plain = optimizers.build(name, [{"params": others, "lr": rate}], "fused=false")
    assert not plain.param_groups[0]["fused"]
    assert not optimizers.build(name, [{"params": others, "lr": rate}], "foreach=true").param_groups[0]["fused"]
    steps(weights, optimizer, 0, 10), steps(others, plain, 0, 10)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(weights, others))


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_help_suggests_arguments_that_are_taken(name):
    suggested = optimizers.OPTIMIZERS[name].__doc__.partition("Suggested: ")[2]
    assert suggested
    _, values = optimizers.check_args(name, suggested)
    assert values


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_unknown_argument_names_the_nearest(name):
    with pytest.raises(UserError, match="weight_decay"):
        optimizers.check_args(name, "weigth_decay=0.1")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("weight_decay=0.1 betas=0.9,0.99", {"weight_decay": 0.1, "betas": (0.9, 0.99)}),
        ("betas=(0.9, 0.99)  eps=1e-8", {"betas": (0.9, 0.99), "eps": 1e-8}),
        ("decouple=True slow=false beta3=None", {"decouple": True, "slow": False, "beta3": None}),
        ("growth_rate=inf mode=fast", {"growth_rate": float("inf"), "mode": "fast"}),
        ("where=a=b=c why='x y'", {"where": "a=b=c", "why": "x y"}),
        ("odd=(1", {"odd": "(1"}),
    ],
)
def test_arguments_are_typed(text, values):
    assert optimizers.parse_args(text) == values


@pytest.mark.parametrize("text", ["0.1", "weight decay=0.1", "weight_decay:0.1"])
def test_what_is_no_argument_is_said(text):
    with pytest.raises(UserError, match="name=value"):
        optimizers.parse_args(text)


@pytest.mark.parametrize("args", ["weight_decay=much", "betas=0.9", "amsgrad=7", "eps=true"])
def test_a_value_of_another_kind_is_refused(args):
    with pytest.raises(UserError, match=args.partition("=")[0]):
        optimizers.check_args("AdamW", args)


@pytest.mark.parametrize("args", ["betas=2,0.9", "weight_decay=-1"])
def test_a_value_that_the_optimizer_refuses_is_said(args):
    with pytest.raises(UserError, match=args.partition("=")[0]):
        optimizers.build("AdamW", [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1e-3}], args)


def test_adafactor_never_sets_the_learning_rate_aside():
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1e-3}]
    with pytest.raises(UserError, match="relative_step"):
        optimizers.build("AdaFactor", groups, "relative_step=true")


def test_arguments_reach_the_optimizer():
    _, optimizer = problem("AdamW")
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    other = optimizers.build("AdamW", [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], "weight_decay=0.5")
    assert other.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize(("name", "members"), [("optimizer.name", optimizers.OPTIMIZERS), ("lr_scheduler", SCHEDULES)])
def test_the_settings_tell_what_each_choice_is(name, members, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lora-studio", "settings", name])
    monkeypatch.setenv("COLUMNS", "1000")
    command_line.main()
    told = " ".join(capsys.readouterr().out.split())
    assert all(about(member) in told for member in members.values())


def test_nothing_is_printed_between_the_lines_of_a_command(capsys):
    optimizers.build("Prodigy", [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1.0}], "decouple=true")
    assert capsys.readouterr().out == ""


def test_class_paths_are_those_of_sd_scripts():
    assert optimizers.class_path("AdamW") == "torch.optim.adamw.AdamW"
    assert optimizers.class_path("AdamW8bit") == "bitsandbytes.optim.adamw.AdamW8bit"
    assert optimizers.class_path("AdaFactor") == "transformers.optimization.Adafactor"


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────


def found(**values) -> list[checks.Problem]:
    config = presets.layer({key.replace("__", "."): value for key, value in values.items()})
    return [problem for problem in checks.check(config, []) if problem.setting.startswith("optimizer.")]


def test_a_rate_of_one_is_an_error_unless_the_optimizer_adapts_it():
    (problem,) = found(optimizer__name="AdamW", optimizer__learning_rate=1)
    assert (problem.setting, problem.severity) == ("optimizer.learning_rate", "error")
    same = {"optimizer__learning_rate": 1, "optimizer__text_encoder_learning_rate": 1}
    assert found(optimizer__name="Prodigy", **same) == []


def test_an_adapting_optimizer_wants_one_and_the_same_everywhere():
    (problem,) = found(optimizer__name="DAdaptAdam", adapter__text_encoder=False)
    assert (problem.severity, problem.suggestion) == ("warning", 1)
    problems = found(optimizer__name="Prodigy", optimizer__learning_rate=1)
    assert [problem.severity for problem in problems] == ["error", "warning"]


def test_a_schedule_on_top_of_an_average_is_warned_of():
    (problem,) = found(optimizer__name="AdamWScheduleFree")
    assert (problem.setting, problem.suggestion) == ("optimizer.schedule", "constant")
    assert found(optimizer__name="AdamWScheduleFree", optimizer__schedule="constant") == []


# ── whole runs ──────────────────────────────────────────────────────────────────────────────────────────

def bytes_of(run) -> dict[int, dict[str, bytes]]:
    files = {epoch.number: load_file(epoch.path) for epoch in run.epochs()}
    return {number: {key: value.numpy().tobytes() for key, value in file.items()} for number, file in files.items()}


@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize(("name", "kind"), list(zip(optimizers.OPTIMIZERS, itertools.cycle(KINDS))))
def test_a_killed_run_ends_with_the_same_bytes(name, kind, tmp_path, folders, monkeypatch):
    """Each with a kind of adapter, and with an average, accumulation, dropout and random captions."""
    monkeypatch.chdir(tmp_path)
    member = optimizers.OPTIMIZERS[name]
    rate = 1 if hasattr(member, "finds_its_rate") else 1e-3
    options = {
        "optimizer__name": name, "optimizer__args": ARGS.get(name, ""),
        "optimizer__learning_rate": rate, "optimizer__text_encoder_learning_rate": rate,
        "optimizer__schedule": "constant" if hasattr(member, "averages") else "cosine",
        "adapter__kind": kind, "adapter__rank_dropout": 0.1, "data__tag_dropout": 0.2,
        "loop__ema_decay": 0 if hasattr(member, "averages") else 0.9,
        "loop__gradient_accumulation": 2, "loop__epochs": 3,
    }  # fmt: skip
    whole = trainees.make_run(tmp_path, folders["sd15"], **options)
    assert trainees.train_in_process(whole) == 0
    broken = trainees.make_run(tmp_path, folders["sd15"], **options)
    assert trainees.train_in_process(broken, kill=("open", "metrics.jsonl", 4)) == -signal.SIGKILL
    assert trainees.train_in_process(broken) == 0
    assert bytes_of(broken) == bytes_of(whole)
    assert [entry["loss"] for entry in broken.metrics()] == [entry["loss"] for entry in whole.metrics()]


def test_the_saved_weights_are_the_averaged_ones(tmp_path, folders, monkeypatch):
    """y, the point that is trained, is (1−β)·z + β·x; the file holds x, and the state y to go on from."""
    monkeypatch.chdir(tmp_path)
    options = {"optimizer__name": "AdamWScheduleFree", "optimizer__schedule": "constant", "loop__epochs": 1}
    run = trainees.make_run(tmp_path, folders["sd15"], **options)
    assert trainees.train_in_process(run) == 0
    state = torch.load(run.path / "state" / "state.pt", weights_only=True)
    trained, saved = state["adapter"], load_file(run.epochs()[0].path)
    keys = [key for key in trained if not key.endswith(".alpha")]
    # The optimizer numbers its weights by group; each z belongs to the one key that it fits.
    points = [own["z"] for own in state["optimizer"]["state"].values()]
    for key in keys:
        alike = [z for z in points if z.shape == saved[key].shape]
        assert any(torch.allclose(saved[key], (trained[key] - 0.1 * z) / 0.9, atol=1e-6) for z in alike), key
    assert any(not torch.equal(saved[key], trained[key]) for key in keys)
