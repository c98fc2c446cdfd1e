"""A base in fewer bits, a VAE that overflows, weights in bf16, compiled code, and what is let go of after caching."""

import functools
import shutil

import pytest
import torch
import trainees
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.resnet import ResnetBlock2D
from test_adapters import outputs
from test_kinds import config_of, learned

from trainer import checks, environment, families, kohya, presets, quantize
from trainer.adapters import Adapter
from trainer.batches import cache_latents
from trainer.config import AdapterConfig
from trainer.errors import UserError
from trainer.examples import load_examples
from trainer.loop import Trainer, train
from trainer.record import Recorder
from trainer.render import load_base


@pytest.fixture
def trainer(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(family="sd15", **changes):
        AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision, but for tests
        run = trainees.make_run(tmp_path, folders[family], adapter__text_encoder=False, loop__epochs=1, **changes)
        mixed = {"fp32": "no"}.get(run.config.model.precision, run.config.model.precision)
        return Trainer(run, run.config, Accelerator(mixed_precision=mixed), Recorder(run), set())

    return make


# ── the base in fewer bits ──────────────────────────────────────────────────────────────────────────────


def stored(unet) -> int:
    return sum(weight.numel() * weight.itemsize for weight in unet.parameters())


@pytest.mark.parametrize(("kind", "error"), [("fp8", 0.04), ("int8", 0.02), ("nf4", 0.15)])
def test_a_packed_layer_is_near_the_whole_one_in_both_directions(kind, error):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 128).requires_grad_(False)
    packed = quantize.KINDS[kind](layer, torch.device("cpu"))
    x = torch.randn(2, 10, 64)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, found = layer(first), packed(second)
    assert 1e-4 < (found - expected).norm() / expected.norm() < error
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    assert 1e-4 < (first.grad - second.grad).norm() / first.grad.norm() < error


def test_fp8_convolutions_are_near_in_both_directions():
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(8, 16, 3, 2, 1).requires_grad_(False)
    packed = quantize.fp8(layer, torch.device("cpu"))
    first = torch.randn(2, 8, 9, 9, requires_grad=True)
    second = first.detach().clone().requires_grad_()
    expected, found = layer(first), packed(second)
    assert 1e-4 < (found - expected).norm() / expected.norm() < 0.04
    expected.square().sum().backward()
    found.square().sum().backward()
    assert (first.grad - second.grad).norm() / first.grad.norm() < 0.08


@pytest.mark.parametrize("kind", ["fp8", "int8", "nf4"])
def test_a_run_trains_on_a_packed_base(kind, trainer):
    whole = families.load("toybox/sd15", dtype=torch.bfloat16)
    made = trainer(model__quantize=kind, model__precision="bf16", model__base="toybox/sd15")
    first = made.adapter.exact()
    assert stored(made.model.unet) - stored(whole.unet) < sum(w.numel() for w in made.adapter.parameters()) * 4
    frozen = [weight for weight in made.model.unet.parameters() if not weight.requires_grad]
    assert sum(w.numel() * w.itemsize for w in frozen) < 0.9 * stored(whole.unet)
    made.train()
    assert any(not torch.equal(value, first[key]) for key, value in made.adapter.exact().items())
    assert len(made.run.epochs()) == 1


@pytest.mark.parametrize(
    ("kind", "storage"),
    [
        *((kind, "fp8") for kind in ("dora", "loha", "lokr", "locon")),
        ("dora", "nf4"),
        ("dora", "int8"),
        ("lokr", "int8"),
    ],
)
def test_other_kinds_sit_on_a_packed_base(kind, storage, model):
    before, _ = outputs(model)
    quantize.pack(model.unet, storage, "cpu")
    base, _ = outputs(model)
    assert 0 < (before - base).norm() < (0.4 if storage == "nf4" else 0.1) * before.norm()
    adapter = Adapter.attach(model, config_of(kind), seed=0)
    assert torch.equal(outputs(model)[0], base)
    learned(adapter)
    assert not torch.allclose(outputs(model)[0], base, atol=1e-3)


def test_a_storage_that_does_not_work_is_said(model, monkeypatch):
    def broken(layer, device):
        raise RuntimeError("no kernel image\nand more")

    monkeypatch.setitem(quantize.KINDS, "nf4", broken)
    with pytest.raises(UserError, match=r"model\.quantize=nf4 does not work on this machine \(no kernel image\)"):
        quantize.pack(model.unet, "nf4", "cpu")


# ── the VAE ─────────────────────────────────────────────────────────────────────────────────────────────


def overflowing(model):
    """A VAE that float32 holds and float16 does not."""
    with torch.no_grad():
        model.vae.encoder.conv_in.weight *= 1e5
        model.vae.encoder.conv_in.bias *= 1e5
    return model.vae.half()


def test_a_half_precision_vae_that_overflows_goes_to_float32(folders, tmp_path):
    model = families.load(str(folders["sd15"]))
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    assert all(part.isfinite().all() for part in model.family.encode_images(model, pixels))
    model.vae.half()
    model.family.encode_images(model, pixels)
    assert model.vae.dtype == torch.float16  # as long as it can
    overflowing(model.to("cpu"))
    mean, std = model.family.encode_images(model, pixels)
    assert mean.isfinite().all() and std.isfinite().all() and model.vae.dtype == torch.float32


def test_pictures_are_cached_though_the_vae_overflows(folders, tmp_path):
    model = families.load(str(folders["sd15"]))
    overflowing(model)
    run = trainees.make_run(tmp_path, folders["sd15"])
    examples = load_examples(run.config.data)
    latents = cache_latents(model, examples, run.config.data, tmp_path / "cache", lambda *_: None)
    assert all(latents[index, 0]["mean"].isfinite().all() for index in range(len(examples)))


def test_no_half_vae_is_obeyed(trainer, monkeypatch):
    seen = []
    load = families.load
    monkeypatch.setattr(families, "load", lambda *args, **options: _half(load(*args, **options)))
    monkeypatch.setattr(
        "trainer.preparation.cache_latents", lambda model, *rest: seen.append(model.vae.dtype) or cached(model, *rest)
    )
    cached = cache_latents
    trainer(model__no_half_vae=True)
    trainer()
    assert seen == [torch.float32, torch.float16]


def test_no_half_vae_is_obeyed_in_rendering(folders, tmp_path, monkeypatch):
    load = families.load
    monkeypatch.setattr(families, "load", lambda *args, **options: _half(load(*args, **options)))
    config = trainees.make_run(tmp_path, folders["sd15"]).config
    whole = config.model_copy(update={"model": config.model.model_copy(update={"no_half_vae": True})})
    assert load_base(config, "cpu").vae.dtype == torch.float16
    assert load_base(whole, "cpu").vae.dtype == torch.float32


def _half(model):
    model.vae.half()
    return model


def test_what_has_done_its_work_is_let_go(trainer):
    made = trainer(data__shuffle_tags=False, data__caption_dropout=0.0)
    for module in (made.model.vae, *made.model.text_encoders):
        assert {weight.device.type for weight in module.parameters()} == {"meta"}
    made.train()
    shuffled = trainer(data__shuffle_tags=True)
    assert all(w.device.type != "meta" for part in shuffled.model.text_encoders for w in part.parameters())


def test_every_caption_of_a_run_is_encoded_ahead_of_its_step(trainer, monkeypatch):
    """However far ahead, the run is the same; no step asks a frozen text encoder."""
    losses = []
    for ahead in (1, 4, 128):
        monkeypatch.setattr("trainer.loop.AHEAD", ahead)
        made, asked, in_step = trainer(data__shuffle_tags=True, data__validation_split=0.4), [], []
        for module in made.model.text_encoders:
            module.register_forward_hook(lambda *_, asked=asked: asked.append(1))

        def heard(texts, made=made, asked=asked, in_step=in_step):
            before, answer = len(asked), made.encode(texts)
            in_step.append(len(asked) - before)
            return answer

        made.step.encode = heard
        made.train()
        assert asked and in_step and not any(in_step)
        losses.append([entry["loss"] for entry in made.run.metrics()])
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) > 1


# ── arithmetic ──────────────────────────────────────────────────────────────────────────────────────────


def test_full_bf16_trains_the_weights_in_bf16(trainer):
    made = trainer(model__full_bf16=True, model__precision="bf16", loop__ema_decay=0.9)
    made.train()
    assert {weight.dtype for weight in made.adapter.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in trainer(model__precision="bf16").adapter.parameters()} == {torch.float32}


def test_a_compiled_run_has_the_same_losses(trainer, folders, tmp_path, monkeypatch):
    """The whole step through torch.compile's graphs, forward and backward; only the making of C++ is left out."""
    from diffusers import UNet2DConditionModel

    base = shutil.copytree(folders["sd15"], tmp_path / "small")
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        cross_attention_dim=64,
        attention_head_dim=8,
    ).save_pretrained(base / "unet")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    losses, graphs = {}, {}
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        root = tmp_path / str(compiled)
        pictures = trainees.draw_pictures(root / "one", trainees.SIZES[:1])
        small = {"model__base": str(base), "data__folder": str(pictures), "loop__batch_size": 1, "data__repeats": 3}
        made = trainer(model__compile=compiled, **small)
        made.train()
        losses[compiled] = [entry["loss"] for entry in made.run.metrics()]
        graphs[compiled] = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        assert not torch._dynamo.utils.counters["graph_break"]
    assert graphs[False] == 0 and graphs[True] > 1  # the probe's, and one for each kind of block at its size
    assert len(losses[True]) == 3 and losses[True] == pytest.approx(losses[False], rel=1e-5)


@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile makes C++ for a CPU, and there is no compiler")
def test_compiled_code_computes_the_same(folders):
    """A block with a LoRA that has learned: what it says and its gradients, in code that was built for it."""
    model = families.load(str(folders["sd15"]))
    adapter = Adapter.attach(model, AdapterConfig(rank=2, alpha=2, only="MID", text_encoder=False), seed=0)
    learned(adapter)
    block = model.unet.mid_block.attentions[0].transformer_blocks[0]
    block.device = model.unet.device
    x, words = torch.randn(1, 4, 64), torch.randn(1, 8, 64)

    def said():
        answer = block(x, encoder_hidden_states=words)
        answer.square().sum().backward()
        gradients = {key: weight.grad for key, weight in adapter.named_parameters() if weight.grad is not None}
        for weight in adapter.parameters():
            weight.grad = None
        return answer, gradients

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    (answer, gradients), why = said(), environment.use_compile(block)
    assert not why and len(gradients) == 20
    compiled, compiled_gradients = said()
    # The probe of use_compile, the block forward and the block backward.
    assert (
        torch._dynamo.utils.counters["inductor"]["fxgraph_cache_miss"]
        + (torch._dynamo.utils.counters["inductor"]["fxgraph_cache_hit"])
        >= 2
    )
    assert torch.allclose(compiled, answer, atol=1e-5)
    assert all(torch.allclose(value, gradients[key], atol=1e-4) for key, value in compiled_gradients.items())


def test_each_size_of_pictures_is_compiled_for_itself(trainer, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **options: calls.append((module, options)))
    made = trainer(model__compile=True)
    blocks = [part for part in made.model.unet.modules() if isinstance(part, (BasicTransformerBlock, ResnetBlock2D))]
    assert blocks and calls == [(block, {"dynamic": False}) for block in blocks]
    calls.clear()
    trainer()
    assert not calls


def test_recorded_steps_are_the_same_and_are_asked_for(trainer, tmp_path):
    """On an NVIDIA card a run whose steps are replayed, in several sizes of pictures; elsewhere a sentence."""
    if not torch.cuda.is_available():
        made, plain = trainer(model__cuda_graphs=True), trainer()
        said = [(one.run.path / "status.json").read_text() for one in (made, plain)]
        assert not made.step.is_recorded and ["needs an NVIDIA card" in text for text in said] == [True, False]
        return
    losses = {}
    for recorded in (False, True):
        made = trainer(model__cuda_graphs=recorded, adapter__rank_dropout=0.2)
        made.train()
        losses[recorded] = [entry["loss"] for entry in made.run.metrics()]
    assert len(made.step._graphs._recorded) > 1
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


def test_what_a_recording_cannot_hold_is_said_before_the_run():
    for kept in ({"adapter.text_encoder": True}, {"adapter.text_encoder": False, "adapter.module_dropout": 0.1}):
        config = presets.layer({"data.folder": "x", "model.cuda_graphs": True}, kept)
        assert "model.cuda_graphs" in {problem.setting for problem in checks.check(config, [])}
        assert "model.cuda_graphs" not in {
            problem.setting for problem in checks.check(presets.layer(kept, {"data.folder": "x"}), [])
        }


def test_a_machine_that_cannot_compile_trains_all_the_same(model, monkeypatch):
    def broken(function):
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", broken)
    said = environment.use_compile(model.unet)
    assert said == "torch.compile cannot be used (no C++ compiler); training without it."


def test_one_process_trains_runs_of_several_precisions(tmp_path, folders, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for precision, said in (("bf16", "bf16"), ("fp32", "no")):
        run = trainees.make_run(tmp_path, folders["sd15"], model__precision=precision, loop__epochs=1)
        train(run)
        assert run.status.state == "finished"
        assert kohya.read_header(run.epoch_path(1)).metadata["ss_mixed_precision"] == said
