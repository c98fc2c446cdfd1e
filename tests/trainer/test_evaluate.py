"""Compare and export on tiny bases of both families: the real path from a trained run to a file in models/."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import tiny
import torch
import trainees
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from trainer import families, kohya, metrics, presets
from trainer.cells import Cell, Evaluation, Hires, Prompt
from trainer.cli.comparing import parse_merge
from trainer.conditioning import condition
from trainer.errors import UserError
from trainer.evaluate import evaluate
from trainer.export import export
from trainer.families import clip
from trainer.loop import train
from trainer.places import make_cell, shelf_of
from trainer.prompt_sets import read_prompts
from trainer.render import Renderer, infotext_of, load_base
from trainer.report import ABOUT
from trainer.run import Run
from trainer.shelf import Shelf
from trainer.upscalers import RRDBNet
from trainer.webui import infotext, noise

PROMPTS = """
[[prompt]]
name = "one"
prompt = "[trigger], (disc:1.3)"
[[prompt]]
name = "two"
prompt = "disc, plain"
negative = "moss"
leak = true
"""


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def trained(request, tmp_path_factory, folders) -> Run:
    """Two strong epochs, so that each row of the grid is another picture."""
    root = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        (root / "set.toml").write_text(PROMPTS)
        run = trainees.make_run(
            root,
            folders[request.param],
            optimizer__learning_rate=0.05,
            optimizer__text_encoder_learning_rate=0.02,
            evaluation__prompts="set.toml",
            evaluation__sampler="Euler",
            evaluation__steps=4,
            evaluation__cfg_scale=4.0,
            evaluation__seeds=[5],
        )
        train(run)
    return run


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Run:
    """A copy of the trained run in a folder of the test's own."""
    shutil.copytree(trained.path.parent.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path / "runs" / trained.name)


def settings_of(run: Run, **changes):
    return run.config.evaluation.model_copy(update=changes)


def difference(a, b) -> int:
    return max(high for _, high in ImageChops.difference(a.convert("RGB"), b.convert("RGB")).getextrema())


def test_the_grid_has_the_base_first_and_every_epoch_from_its_file(here):
    result = evaluate(here, settings_of(here))
    evaluation = Evaluation.load(result.folder)
    assert evaluation.epochs == [0, 1, 2]
    places = [(cell.epoch, cell.column) for cell in evaluation.cells]
    assert places == [(epoch, column) for epoch in (0, 1, 2) for column in ("one", "two")]
    assert {"Base model", "Sampling"} <= set(evaluation.about) <= set(ABOUT)
    for name in ("grid.png", "report.html", "scores.json"):
        assert (result.folder / name).stat().st_size > 0
    pictures = [Image.open(result.folder / cell.file) for cell in evaluation.cells]
    assert difference(pictures[0], pictures[2]) > 3  # an epoch is another picture than the base
    assert difference(pictures[2], pictures[4]) > 3  # and than another epoch
    assert {row.epoch for row in evaluation.rows} == {0, 1, 2}


def test_likeness_is_to_the_pictures_that_were_trained_on(here):
    """Neither to those that the run held back nor to those that came to the folder later."""
    record, folder = here.path / "dataset.json", Path(here.config.data.folder)
    held, *trained = json.loads(record.read_text())
    record.write_text(json.dumps([{**held, "role": "validation"}, *trained]))
    Image.new("RGB", (64, 64), "red").save(folder / "later.png")
    found = evaluate(here, settings_of(here))
    shown = next(cell for cell in found.evaluation.cells if cell.epoch == 2 and cell.column == "one")
    seen = metrics.describe(metrics.open_picture(found.folder / shown.file))
    likeness = [float(seen @ metrics.describe(metrics.open_picture(folder / one["file"]))) for one in trained]
    assert trained and shown.scores["likeness"] == pytest.approx(sum(likeness) / len(likeness), abs=1e-4)


def test_every_picture_says_how_it_was_made(here):
    result = evaluate(here, settings_of(here))
    cell = next(cell for cell in result.evaluation.cells if cell.epoch == 2 and cell.column == "two")
    source, info = infotext.read_image(result.folder / cell.file)
    assert source == "a1111"
    assert info.prompt == "disc, plain <lora:moss-000002:1>"
    assert info.negative_prompt == "moss"
    wanted = {"Steps": "4", "Sampler": "Euler", "CFG scale": "4.0", "Seed": "5", "Size": "64x64", "RNG": "NV"}
    assert wanted.items() <= info.settings.items()
    assert kohya.tensor_hash(here.epochs()[1].path).startswith(info.settings["Lora hashes"].split(": ")[1])


def test_only_what_is_missing_is_rendered(here):
    folder = evaluate(here, settings_of(here)).folder
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    victim = next(iter(before))
    (folder / "cells" / victim).unlink()
    # A changed prompt needs three new pictures; those of the other prompt stay.
    text = (here.path.parent.parent / "set.toml").read_text()
    (here.path.parent.parent / "set.toml").write_text(text.replace("disc, plain", "disc, red"))
    evaluate(here, settings_of(here))
    after = {path.name: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    new = {name for name in after if after[name] != before.get(name)}
    assert len(new - {victim}) == 3
    assert all(after[name] == before[name] for name in before if name != victim)


def test_a_chosen_epoch_strength_and_seed(here):
    result = evaluate(here, settings_of(here, strengths=(0.5, 1.0), seeds=(5, 6)), epochs=[2])
    cells = result.evaluation.cells
    assert {cell.epoch for cell in cells} == {0, 2}
    assert len(cells) == 2 * 2 + 2 * 2 * 2  # base: prompts × seeds; epoch 2: that at two strengths
    with pytest.raises(UserError, match="no epoch 7"):
        evaluate(here, settings_of(here), epochs=[7])


def test_a_picture_from_a_batch_is_the_picture_rendered_alone(here):
    config = here.config
    model = load_base(config, "cpu")
    columns = read_prompts(presets.locate("set.toml", "prompts"), "moss")
    cells = [make_cell(config, config.evaluation, column, seed, "") for column in columns for seed in (5, 6)]
    # Prompts of different length share a batch, too.
    cells.append(replace(cells[0], prompt=", ".join(["disc"] * 90)))
    together = Renderer(model, 5).render(cells)
    for cell, picture in zip(cells, together):
        assert difference(Renderer(model, 1).render([cell])[0], picture) <= 1


def cells_of(run: Run, base: str = ""):
    """The prompts at seed 5 from the base and from two epochs at two strengths: (cells, their files)."""
    columns = read_prompts(presets.locate("set.toml", "prompts"), "moss")
    rows = [(None, 1.0)] + [(epoch, strength) for epoch in run.epochs() for strength in (0.5, 1.0)]
    pairs = [(make_cell(run.config, run.config.evaluation, column, 5, base), row) for row in rows for column in columns]
    return [replace(cell, strength=row[1]) for cell, row in pairs], [row[0] and row[0].path for _, row in pairs]


def test_epochs_and_strengths_share_a_batch_and_each_picture_is_the_one_rendered_alone(here):
    cells, loras = cells_of(here)
    together = Renderer(load_base(here.config, "cpu"), 10).render(cells, loras)
    alone = Renderer(load_base(here.config, "cpu"), 1)
    for cell, lora, picture in zip(cells, loras, together):
        assert difference(alone.render([cell], [lora])[0], picture) <= 2
    firsts = together[::2]
    assert all(difference(one, other) > 3 for index, one in enumerate(firsts) for other in firsts[:index])


def test_a_lora_that_cannot_be_stacked_is_rendered_by_itself_between_the_others(here, monkeypatch):
    cells, loras = cells_of(here)
    wanted = Renderer(load_base(here.config, "cpu"), 10).render(cells, loras)
    odd = here.epochs()[0].path  # as a LoHa or LoKr is: one adapter at a time, in batches of its own
    monkeypatch.setattr("trainer.render.stackable", lambda path: path != odd)
    renderer = Renderer(load_base(here.config, "cpu"), 10)
    places = [Place(cell, lora) for cell, lora in zip(cells, loras)]
    seen = [place for batch in renderer.batches(places) for place in batch]
    assert sorted(map(id, seen)) == sorted(map(id, places))
    for batch in renderer.batches(places):
        assert len({place.lora == odd and place.cell.strength for place in batch}) == 1
        made = renderer.render([place.cell for place in batch], [place.lora for place in batch])
        for place, picture in zip(batch, made):
            assert difference(picture, wanted[places.index(place)]) <= 2
    with pytest.raises(UserError, match="cannot be rendered together"):
        renderer.render(cells[:4], loras[:4])


@dataclass(frozen=True)
class Place:
    cell: Cell
    lora: Path | None


def test_texts_are_encoded_once_for_each_state_of_the_text_encoder(here, tmp_path):
    cells, loras = cells_of(here)
    model = load_base(here.config, "cpu")
    calls = []
    model.text_encoders[0].register_forward_hook(lambda *_: calls.append(1))
    renderer = Renderer(model, 2)
    for _ in range(2):
        for batch in (slice(0, 4), slice(4, 10)):
            renderer.render(cells[batch], loras[batch])
    texts = 4  # two prompts, one negative prompt and an empty one
    assert len(calls) == texts * 5  # the base and two epochs at two strengths
    # LoRAs that leave the text encoders alone share what the base's says.
    tensors = kohya.read(loras[-1]).tensors
    plain = {key: tensor for key, tensor in tensors.items() if key.startswith("lora_unet")}
    kohya.write(tmp_path / "plain.safetensors", plain, {})
    renderer.render(cells, [tmp_path / "plain.safetensors"] * len(cells))
    assert len(calls) == texts * 5


def test_a_stopped_comparison_goes_on_with_what_is_missing(here, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(done, total, *_):
        if done >= 2:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(here, settings_of(here, batch_size=2), progress=stop)
    folder = here.evaluation_folder("set") / "cells"
    first = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(first) == 2
    rendered = []
    render = Renderer.render
    monkeypatch.setattr(Renderer, "render", lambda self, cells, *a: rendered.extend(cells) or render(self, cells, *a))
    evaluate(here, settings_of(here, batch_size=2))
    assert len(rendered) == 4 and all(path.stat().st_mtime_ns == at for path, at in first.items())


@pytest.mark.parametrize("upscaler", ["Latent", "tiny"])
def test_the_hires_fix_makes_a_larger_picture_and_says_how(here, upscaler):
    torch.manual_seed(0)
    (here.path.parent.parent / "models").mkdir()
    torch.save(RRDBNet(4, 4, 1).state_dict(), here.path.parent.parent / "models" / "tiny.pth")
    text = '[[prompt]]\nname="a"\nprompt="[trigger], [disc:red:1.5]"\nwidth=64\nheight=64\n'
    fix = f'hires = {{upscale=1.5, upscaler="{upscaler}", denoise=0.5, steps=3, sampler="Euler a"}}\n'
    Path("set.toml").write_text(text + fix)
    result = evaluate(here, settings_of(here, seeds=(5, 6)), epochs=[2])
    cell = result.evaluation.cells[-1]
    with Image.open(result.folder / cell.file) as picture:
        assert picture.size == (96, 96)
    settings = infotext.read_image(result.folder / cell.file)[1].settings
    assert settings["Hires upscaler"] == upscaler and settings["Hires sampler"] == "Euler a"
    assert (settings["Denoising strength"], settings["Hires upscale"], settings["Hires steps"]) == ("0.5", "1.5", "3")
    # Each of its settings is another picture; alone it is the one from the batch.
    renderer = Renderer(load_base(here.config, "cpu"), 1)
    column = read_prompts(Path("set.toml"), "moss")[0]
    made = replace(make_cell(here.config, here.config.evaluation, column, 6, ""), strength=1.0)
    epoch = here.epochs()[1].path
    alone = renderer.render([made], [epoch])[0]
    with Image.open(result.folder / cell.file) as picture:
        assert difference(alone, picture) <= 2
    for change in ({"denoise": 0.7}, {"steps": 4}, {"sampler": "Euler"}, {"upscaler": "Nearest"}):
        other = replace(made, hires=replace(made.hires, **change))
        assert other.key != made.key and difference(renderer.render([other], [epoch])[0], alone) > 2
    for words in ({"prompt": "disc, green"}, {"negative": "disc"}, {"cfg_scale": 9.0}):
        other = replace(made, hires=replace(made.hires, **words))
        assert other.key != made.key and difference(renderer.render([other], [epoch])[0], alone) > 0
    untouched = renderer.render([replace(made, hires=replace(made.hires, denoise=0.0))], [epoch])[0]
    assert difference(untouched, alone) > 2 and untouched.size == (96, 96)


def test_a_lora_that_only_the_hires_pass_names(here):
    """As in A1111: words of its own are all that the second pass reads, files included. The epoch is in both."""
    Path("models").mkdir()
    shutil.copy(here.epochs()[0].path, "models/other.safetensors")
    settings, epoch = settings_of(here), here.epochs()[1].path
    renderer = Renderer(load_base(here.config, "cpu"), 4, shelf_of(settings))

    def picture(**fix):
        column = Prompt("x", "moss, disc", hires=Hires(upscale=1.5, steps=2, **fix))
        cell = replace(make_cell(here.config, settings, column, 5, ""), strength=1.0)
        return renderer.render([cell], [epoch])[0], cell

    plain, cell = picture()
    assert difference(picture(prompt="moss, disc")[0], plain) == 0 and cell.files == ()
    named, cell = picture(prompt="moss, disc <lora:other:1>")
    assert difference(named, plain) > 2 and cell.files[0][:2] == ("lora", "other")
    text = infotext_of(cell, renderer, here.epochs()[1])
    assert "Hires prompt: moss, disc <lora" not in text  # quoted: it holds commas
    assert infotext.parse(text).settings["Hires prompt"] == "moss, disc <lora:other:1> <lora:moss-000002:1>"
    # An odd LoRA of the second pass keeps its batch to itself as well.
    places = [Place(cell, epoch), Place(picture()[1], epoch)]
    assert len(list(renderer.batches(places))) == 2


def test_noise_eta_and_emphasis_are_another_picture_and_are_written(here):
    settings = settings_of(here, sampler="Euler a")
    renderer = Renderer(load_base(here.config, "cpu"), 4)

    def picture(text="moss, (disc:1.4)", **pinned):
        cell = make_cell(here.config, settings, Prompt("x", text, **pinned), 5, "")
        return renderer.render([cell], [here.epochs()[1].path])[0], cell

    plain, cell = picture()
    assert "RNG: NV" in infotext_of(cell, renderer, None) and "Eta" not in infotext_of(cell, renderer, None)
    for change, line in (
        ({"noise_source": "CPU"}, "RNG: CPU"),
        ({"ensd": 31337}, "ENSD: 31337"),
        ({"eta": 0.5}, "Eta: 0.5"),
        ({"emphasis": "Ignore"}, "Emphasis: Ignore"),
        ({"emphasis": "No norm"}, "Emphasis: No norm"),
        ({"emphasis": "None"}, "Emphasis: None"),
    ):
        made, cell = picture(**change)
        assert difference(made, plain) > 0, change
        assert line in infotext_of(cell, renderer, None)
        assert len(list(renderer.batches([Place(cell, None), Place(picture()[1], None)]))) == 2
    assert difference(picture(eta=1.0)[0], plain) == 0  # what the sampler has by itself
    ignored = picture(emphasis="Ignore")[0]
    assert difference(ignored, picture("moss, disc")[0]) == 0
    drawn = make_cell(here.config, settings_of(here, noise_source="CPU"), Prompt("x", "moss"), 5, "")
    assert drawn.noise_source == "CPU"
    # DDIM draws no noise by itself; what it is told to draw has a name of its own there.
    cell = make_cell(here.config, settings, Prompt("x", "moss", sampler="DDIM", eta=0.5, ensd=1), 5, "")
    assert "Eta DDIM: 0.5" in infotext_of(cell, renderer, None) and "ENSD" not in infotext_of(cell, renderer, None)
    still = replace(cell, eta=None)
    assert difference(renderer.render([cell], [None])[0], renderer.render([still], [None])[0]) > 0


def test_loras_and_embeddings_that_a_prompt_names(here):
    config, first = here.config, here.epochs()[0].path
    for folder in ("models/mine", "words"):
        Path(folder).mkdir(parents=True)
    shutil.copy(first, "models/mine/Other.safetensors")
    model = load_base(config, "cpu")
    widths = [encoder.config.hidden_size for encoder in model.text_encoders]
    vectors = [torch.randn(3, width) for width in widths]
    names = ("clip_l", "clip_g") if len(widths) == 2 else ("emb_params",)
    save_file(dict(zip(names, vectors)), "words/soft.safetensors")
    if len(widths) == 1:
        torch.save({"string_to_param": {"*": torch.randn(2, widths[0])}}, "words/old.pt")
    torch.save({"string_to_param": {"*": torch.randn(2, 7)}}, "words/alien.pt")
    Path("words/junk.pt").write_bytes(b"nothing that is read unless it is named")
    settings = settings_of(here, embedding_folders=("words",))
    renderer = Renderer(model, 4, shelf_of(settings))

    def picture(text, negative="", lora=None, strength=1.0):
        cell = make_cell(config, settings, Prompt("x", text, negative), 5, "")
        return renderer.render([replace(cell, strength=strength)], [lora])[0], cell

    # <lora:…> is the file at that weight, on its own or on top of an epoch.
    named, cell = picture("moss, disc <lora:other:0.5>")
    assert difference(named, picture("moss, disc", lora=first, strength=0.5)[0]) <= 1
    assert cell.files == (("lora", "other", kohya.tensor_hash(first)[:12]),)
    stacked = picture("moss, disc <lora:other:0.5>", lora=here.epochs()[1].path)[0]
    assert difference(stacked, named) > 2
    assert difference(stacked, picture("moss, disc", lora=here.epochs()[1].path)[0]) > 2
    with pytest.raises(UserError, match="no LoRA file for <lora:none>: looked for none.safetensors in models/"):
        picture("moss <lora:none:1>")
    # An embedding counts in either prompt, in either case, with weights and in any branch.
    plain = picture("moss, sofa")[0]
    for text in ("moss, Soft", "moss, (soft:1.3)", "moss AND soft", "moss BREAK soft"):
        assert "embedding" in {kind for kind, *_ in picture(text)[1].files}
        without = picture(text.replace("oft", "ofa"))[0]
        assert difference(picture(text)[0], without) > 0
    assert difference(picture("moss", "soft")[0], picture("moss", "sofa")[0]) > 0
    # What is made for another base, or not there, is words, as in A1111.
    missing = Renderer(model, 4, Shelf(embeddings=("nowhere",)))
    cell = make_cell(config, settings, Prompt("x", "moss, alien"), 5, "")
    assert difference(missing.render([cell], [None])[0], renderer.render([cell], [None])[0]) == 0
    assert difference(plain, picture("moss, sofa")[0]) == 0
    assert renderer.unread(["moss, Alien", "soft, embedding:gone"]) == [
        "alien (made for another base)", "gone (not found)",
    ]  # fmt: skip
    mixed = make_cell(config, settings, Prompt("x", "moss, alien", "soft"), 5, "")
    assert {name for _, name, _ in mixed.files} == {"alien", "soft"}
    listed = infotext.parse(infotext_of(mixed, renderer, None)).settings["TI hashes"]
    assert "soft: " in listed and "alien" not in listed
    assert "TI hashes" not in infotext_of(cell, renderer, None)
    with pytest.raises(UserError, match="junk.pt cannot be read as an embedding"):
        renderer.embeddings("moss, junk")
    if len(widths) == 1:
        assert difference(picture("moss, old")[0], missing.render([replace(cell, prompt="moss, old")], [None])[0]) > 0


def test_the_branches_of_an_and_are_equally_long_as_in_a1111(here):
    """A1111 repeats the last vector of the shorter ones, which is not what a UNet sees of them alone."""
    model = load_base(here.config, "cpu")
    seen = []
    model.unet.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    renderer, settings = Renderer(model, 4), settings_of(here)
    cell = make_cell(here.config, settings, Prompt("x", "moss AND " + "disc " * 40), 5, "")
    renderer.render([cell], [None])
    short, long = next(rows for rows in seen if len(rows) == 2)
    assert torch.equal(short[77:], short[76].expand(len(short) - 77, -1)) and not torch.equal(long[78], long[77])
    assert {rows.shape[:2] for rows in seen} == {(2, len(long)), (1, 77)}  # the negative prompt stays as it is


def test_the_vectors_of_an_embedding_take_the_place_of_its_name(model, tmp_path):
    """An embedding made of a word's own vectors says what the word says."""
    tables = [clip.transformer(encoder).embeddings.token_embedding for encoder in model.text_encoders]
    tokens = model.family.tokenize(model, ["red"])
    count = 3  # the tiny tokenizer's letters
    vectors = [table(part[0, 0, 1 : 1 + count].to(model.device)) for table, part in zip(tables, tokens)]
    wanted = condition(model, (("a red cat", 1.0),), 1)
    said = condition(model, (("a zzz cat", 1.0),), 1, {"zzz": [one.detach() for one in vectors]})
    assert torch.allclose(said.hidden, wanted.hidden, atol=1e-5)
    assert not torch.allclose(condition(model, (("a zzz cat", 1.0),), 1).hidden, wanted.hidden, atol=1e-3)


def test_export_draws_the_same_picture_and_writes_what_the_tools_read(here):
    folder = evaluate(here, settings_of(here)).folder
    exported = export(here, 2, name="My moss")
    assert exported.path.name == "My-moss.safetensors"
    assert "Checked" in exported.verification
    maps = Path("/proc/self/maps")  # Windows cannot move a file that the check still holds open
    assert not maps.exists() or "My-moss" not in maps.read_text()
    lora = kohya.read(exported.path)
    assert lora.metadata["ss_output_name"] == "My-moss"
    for key, tensor in load_file(here.epochs()[1].path).items():
        assert torch.equal(lora.tensors[key], tensor)
    assert json.loads(exported.path.with_suffix(".json").read_text())["activation text"] == "moss"
    assert json.loads(exported.path.with_suffix(".civitai.info").read_text())["trainedWords"] == ["moss"]
    assert exported.path.with_suffix(".png").exists() and exported.path.with_suffix(".preview.png").exists()
    with pytest.raises(UserError, match="already there"):
        export(here, 1, name="My moss")
    assert kohya.tensor_hash(exported.path) == kohya.tensor_hash(here.epochs()[1].path)
    notes = exported.path.with_name("noted.json")  # such as A1111 writes for a file of another ending
    notes.write_text("mine")
    with pytest.raises(UserError, match="noted.json is already there"):
        export(here, 1, name="noted")
    assert notes.read_text() == "mine" and not notes.with_suffix(".safetensors").exists()
    # Another picture under the cell's name is not what the file draws.
    shown = next(cell for cell in Evaluation.load(folder).cells if cell.epoch == 2 and cell.column == "one")
    Image.new("RGB", (64, 64), "red").save(folder / shown.file)
    with pytest.raises(UserError, match="moss-again.safetensors was not written: it draws another picture than"):
        export(here, 2, name="moss again")
    assert not list(exported.path.parent.glob("*moss-again*"))  # nor a hidden part of it
    before = {path: path.read_bytes() for path in exported.path.parent.iterdir()}
    with pytest.raises(UserError, match="another picture"):
        export(here, 2, name="My moss", overwrite=True)
    assert {path: path.read_bytes() for path in exported.path.parent.iterdir()} == before
    # The preview was drawn from a file that had no name yet, and says the one that it has now.
    with Image.open(exported.path.with_suffix(".png")) as preview:
        assert "<lora:My-moss:1>" in preview.info["parameters"]
    # A comparison whose pictures are gone is none to hold a file against.
    shutil.rmtree(folder / "cells")
    assert "no comparison shows this epoch" in export(here, 2, name="moss again").verification


def test_a_model_card_shows_the_grid_and_says_what_the_file_is(here):
    folder = evaluate(here, settings_of(here)).folder
    found = Evaluation.load(folder)
    found.recommended = {"epoch": 1, "strength": 1.0, "reason": "Epoch 1: likeness <b>has</b> stopped | rising."}
    found.prompts[1] = replace(found.prompts[1], prompt="a `moss` | <b>disc</b>")
    found.save(folder)
    path = export(here, 2).path
    card = path.with_suffix(".md").read_text()
    head = card.split("---\n")[1]
    assert '"moss"' in head and "- lora" in head and "base_model" not in head  # a folder of this machine is no link
    assert str(here.path.parent.parent) not in card + path.with_suffix(".json").read_text()
    assert f"`<lora:{path.stem}:1> moss`" in card and kohya.tensor_hash(path)[:12] in card
    assert "Chosen by its maker. The scores would say: Epoch 1: likeness &lt;b>has" in card
    assert "| Score | Epoch 2 | Base |" in card and "| Likeness |" in card
    assert "- two: `` a `moss` | <b>disc</b> ``" in card and "it draws the comparison's 'one'" in card
    with Image.open(path.parent / "moss.grid.webp") as grid:
        assert "(moss.grid.webp)" in card and max(grid.size) <= 4096
    # Without a comparison there is nothing to show, and nothing is shown.
    shutil.rmtree(here.path / "evaluations")
    bare = export(here, 2, name="bare").path
    assert "side by side" not in bare.with_suffix(".md").read_text()
    assert not bare.with_suffix(".grid.webp").exists()


def test_export_finds_what_the_comparisons_prompts_name(here):
    """A LoRA on top, from a folder that only the comparison's settings know."""
    Path("elsewhere").mkdir()
    shutil.copy(here.epochs()[0].path, "elsewhere/Other.safetensors")
    Path("set.toml").write_text('[[prompt]]\nname = "one"\nprompt = "[trigger] <lora:other:0.5>"\n')
    evaluate(here, settings_of(here, model_folders=("elsewhere",)), epochs=[2])
    assert "Checked" in export(here, 2, name="on top").verification


def test_a_changed_export_is_what_it_says_and_is_checked_as_far_as_it_can_be(here):
    first, second = (kohya.read(epoch.path).tensors for epoch in here.epochs())
    baked = export(here, 2, name="baked", strength=0.5)
    assert "Checked: at 1 it draws what epoch 2 draws at 0.5" in baked.verification
    for key, tensor in kohya.read(baked.path).tensors.items():
        assert torch.equal(tensor, 0.5 * second[key] if key.endswith(".alpha") else second[key])
    merged = export(here, name="merged", merge=[(1, 0.25), (2, 0.75)])
    assert "No epoch draws the picture of a merge" in merged.verification
    lora = kohya.read(merged.path)
    assert lora.metadata["ss_network_dim"] == "8" and "moss-000001" in lora.metadata["modelspec.merged_from"]
    key = next(iter(first)).partition(".")[0]
    wanted = sum(w * delta(tensors, key) for w, tensors in ((0.25, first), (0.75, second)))
    assert torch.allclose(delta(lora.tensors, key), wanted, rtol=1e-5, atol=1e-9)
    # Another LoRA comes along by its name in the model folders.
    wanted = delta(lora.tensors, key) * 0.5 + delta(first, key)
    mixed = export(here, name="mixed", merge=[(1, 1.0), ("merged", 0.5)])
    assert "1 × epoch 1 + 0.5 × merged" in mixed.verification
    assert torch.allclose(delta(kohya.read(mixed.path).tensors, key), wanted, rtol=1e-5, atol=1e-9)
    assert "## Why this one" not in mixed.path.with_suffix(".md").read_text()
    odd = {name: tensor[:, :1] if name.endswith("down.weight") else tensor for name, tensor in first.items()}
    kohya.write(Path("models/odd.safetensors"), odd, {})
    for merge, message in (
        ([("merged", 1.0)], "at least one must be an epoch"),
        ([(1, 1.0), ("gone", 1.0)], "no LoRA 'gone' in models/"),
        ([(1, 1.0), ("models/odd.safetensors", 1.0)], "another kind of base"),
    ):
        with pytest.raises(UserError, match=message):
            export(here, name="wrong", merge=merge)
    assert parse_merge("4:0.5, hat:0.2,C:\\x.safetensors:1") == [(4, 0.5), ("hat", 0.2), ("C:\\x.safetensors", 1.0)]
    for wrong in ("4", "hat:x", ":0.5"):
        with pytest.raises(UserError, match="write epochs with weights"):
            parse_merge(wrong)
    small = export(here, 2, name="small", rank=1, dtype="fp16")
    assert "cannot draw the same pixels" in small.verification and "keeps" in small.verification
    assert small.path.stat().st_size < here.epochs()[1].path.stat().st_size / 2
    for wrong in ({"number": None}, {"number": 1, "merge": [(2, 1.0)]}, {"number": 1, "strength": 0.0}):
        with pytest.raises(UserError, match="--"):
            export(here, name="wrong", **wrong)
    assert not (here.path.parent.parent / "models" / "wrong.safetensors").exists()


def delta(tensors: dict, name: str) -> torch.Tensor:
    down, up = (tensors[f"{name}.lora_{side}.weight"].double().flatten(1) for side in ("down", "up"))
    return up @ down * float(tensors[f"{name}.alpha"]) / down.shape[0]


def test_diffusers_draws_the_same_picture_from_the_exported_file(here):
    """Euler at 6 steps through diffusers' own pipeline and `load_lora_weights`, from the same noise."""
    from diffusers import EulerDiscreteScheduler

    exported = export(here, 2)
    config = here.config
    model = load_base(config, "cpu")
    settings = settings_of(here, steps=6)
    cell = make_cell(config, settings, presets_prompt(), 5, "")
    renderer = Renderer(model, 1)
    renderer.use(exported.path, 1.0)
    ours = renderer.render([cell])[0]
    pipe = tiny.pipeline(families.load(config.model.base))
    pipe.scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="linspace"
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(exported.path.parent), weight_name=exported.path.name)
    latents = noise.initial_noise((4, 8, 8), 5, "NV")[None]
    negative = None if model.family.name == "sdxl" else ""
    theirs = pipe(
        cell.prompt, negative_prompt=negative, num_inference_steps=6, guidance_scale=4.0, width=64, height=64,
        latents=latents,
    ).images[0]  # fmt: skip
    assert difference(ours, theirs) <= 1


def test_pictures_are_rendered_as_the_base_is_said_to_predict(here):
    """What the run was told of its base holds for its pictures, and stands in them as A1111 writes it."""
    said = here.config.model.model_copy(update={"prediction": "v_prediction"})
    shifted = here.config.loss.model_copy(update={"zero_terminal_snr": True})
    configs = [
        here.config,
        here.config.model_copy(update={"model": said}),
        here.config.model_copy(update={"model": said, "loss": shifted}),
    ]
    cell = make_cell(here.config, here.config.evaluation, presets_prompt(), 5, "")
    renderers = [Renderer(load_base(config, "cpu"), 1) for config in configs]
    plain, v, pure = (renderer.render([cell])[0] for renderer in renderers)
    assert min(difference(plain, v), difference(v, pure)) > 1
    noise = ["Noise Schedule: Zero Terminal SNR" in infotext_of(cell, renderer, None) for renderer in renderers]
    assert noise == [False, False, True]


def presets_prompt():
    return Prompt("plain", "moss, disc")


def test_the_base_is_untouched_after_a_lora_was_on_it(here):
    config = here.config
    cell = make_cell(config, config.evaluation, presets_prompt(), 5, "")
    renderer = Renderer(load_base(config, "cpu"), 1)
    before = renderer.render([cell])[0]
    renderer.use(here.epochs()[1].path, 1.0)
    with_lora = renderer.render([cell])[0]
    renderer.use(None, 1.0)
    assert difference(renderer.render([cell])[0], before) == 0
    assert difference(with_lora, before) > 3
    renderer.use(here.epochs()[0].path, 1.0)
    renderer.use(here.epochs()[1].path, 1.0)
    assert difference(renderer.render([cell])[0], with_lora) == 0
