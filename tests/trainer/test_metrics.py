import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance

from trainer.cells import Evaluation, Prompt, Rendered
from trainer.errors import UserError
from trainer.metrics import METRICS, Clip, Dino, describe, open_picture, plain_words, score, tone

GREEN, RED, BLUE, SKY, SAND = (60, 170, 70), (220, 40, 40), (50, 110, 225), (170, 210, 250), (240, 225, 170)


def creature(color, shape="ellipse", ground="white", at=(0, 0), size=96):
    """A coloured shape with an outline and two eyes."""
    image = Image.new("RGB", (size, size), ground)
    draw, (x, y) = ImageDraw.Draw(image), at
    getattr(draw, shape)((size * 0.25 + x, size * 0.2 + y, size * 0.75 + x, size * 0.85 + y), color, (20, 20, 20), 3)
    for eye in (0.4, 0.55):
        draw.ellipse((size * eye + x, size * 0.35 + y, size * (eye + 0.08) + x, size * 0.45 + y), "black")
    return image


def evaluation(folder, pictures, prompts=None, strengths=(1.0,)):
    """`pictures`: (column, epoch, seed) -> image; saved where the index says."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    cells = []
    for (column, epoch, seed), image in pictures.items():
        cells.append(Rendered(column, epoch, strengths[0], seed, f"cells/{column}-{epoch}-{seed}.png"))
        image.save(folder / cells[-1].file)
    prompts = prompts or [Prompt("pose", "moss, sitting"), Prompt("sky", "moss, sky"), Prompt("leak", "dog", leak=True)]
    epochs = sorted({cell.epoch for cell in cells})
    return Evaluation("run", "moss", {}, prompts, [1, 2], list(strengths), epochs, cells)


@pytest.fixture
def training(tmp_path):
    paths = []
    for index, ground in enumerate(["white", SKY, SAND, "white"]):
        paths.append(tmp_path / "training" / f"{index}.png")
        paths[-1].parent.mkdir(exist_ok=True)
        creature(GREEN, ground=ground, at=(index * 2, -index)).save(paths[-1])
    return paths


@pytest.fixture
def overcooked(tmp_path):
    """The base, an epoch that learned the green creature, and one that draws it everywhere, too bright."""
    hot = ImageEnhance.Contrast(ImageEnhance.Color(creature(GREEN)).enhance(3)).enhance(2)
    pictures = {}
    for seed in (1, 2):
        at = (seed * 10 - 10, 0)
        pictures |= {
            ("pose", 0, seed): creature(BLUE, "rectangle", at=at),
            ("sky", 0, seed): creature(RED, "rectangle", SKY, at),
            ("leak", 0, seed): creature(RED, "rectangle", SAND, at),
            ("pose", 1, seed): creature(GREEN, at=at),
            ("sky", 1, seed): creature(GREEN, ground=SKY, at=at),
            ("leak", 1, seed): creature(RED, "rectangle", SAND, at),
            ("pose", 2, seed): hot,
            ("sky", 2, seed): hot,
            ("leak", 2, seed): hot,
        }
    return evaluation(tmp_path, pictures)


def rows(found):
    return {row.epoch: row.scores for row in found.rows}


def test_a_run_that_learns_and_then_overcooks(tmp_path, training, overcooked):
    score(overcooked, tmp_path, training)
    base, good, late = (rows(overcooked)[epoch] for epoch in (0, 1, 2))
    assert good["likeness"] > base["likeness"] + 0.05
    assert good["bleed"] == 0.0 and late["bleed"] > 0.1
    assert "bleed" not in base
    assert late["diversity"] == pytest.approx(0, abs=1e-6) and good["diversity"] > 0.02
    assert late["burn"] > good["burn"] + 0.2
    assert [row.epoch for row in overcooked.rows] == [0, 1, 2]


def test_variety_is_that_of_a_prompts_seeds_and_not_what_prompts_ask_for(tmp_path, training):
    same = {("pose", 1, seed): creature(GREEN) for seed in (1, 2)} | {("sky", 1, 1): creature(GREEN, ground=SKY)}
    found = evaluation(tmp_path, same | {("sky", 1, 2): creature(GREEN, ground=SKY), ("leak", 1, 1): creature(RED)})
    score(found, tmp_path, training)
    assert rows(found)[1]["diversity"] == pytest.approx(0, abs=1e-6)
    other = same | {("sky", 1, 2): creature(RED, "rectangle", SAND), ("leak", 1, 2): creature(RED)}
    found = evaluation(tmp_path, other)
    score(found, tmp_path, training)
    apart = 1 - describe(creature(GREEN, ground=SKY)) @ describe(creature(RED, "rectangle", SAND))
    assert rows(found)[1]["diversity"] == pytest.approx(apart / 2, abs=1e-4)  # half: the other prompt has none


def test_one_seed_has_no_variety(tmp_path, training):
    found = evaluation(tmp_path, {("pose", 1, 1): creature(GREEN), ("sky", 1, 1): creature(RED, "rectangle", SKY)})
    score(found, tmp_path, training)
    assert "diversity" not in rows(found)[1]


def test_scores_json_says_what_the_numbers_mean(tmp_path, training, overcooked):
    score(overcooked, tmp_path, training)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert "without CLIP" in written["from"]
    assert written["from"] == overcooked.about["Scores from"]
    assert set(written["metrics"]) == {"likeness", "bleed", "diversity", "memorisation", "burn"}
    assert written["metrics"]["bleed"]["better"] == "lower"
    assert written["rows"][1]["scores"] == rows(overcooked)[1]
    assert len(written["cells"]) == len(overcooked.cells)


def test_a_rows_score_is_the_mean_of_its_pictures(tmp_path, training, overcooked):
    score(overcooked, tmp_path, training)
    cells = [cell for cell in overcooked.cells if cell.epoch == 1 and cell.column != "leak"]
    assert rows(overcooked)[1]["likeness"] == pytest.approx(np.mean([c.scores["likeness"] for c in cells]), abs=1e-4)
    assert all("likeness" not in cell.scores for cell in overcooked.cells if cell.column == "leak")


def test_scores_of_others_stay_and_stale_ones_go(tmp_path, training, overcooked):
    score(overcooked, tmp_path, training)
    overcooked.rows[1].scores["fidelity"] = 0.9
    for cell in overcooked.cells:
        if cell.column == "leak" and cell.epoch == 1:
            (tmp_path / cell.file).unlink()
    score(overcooked, tmp_path, training)
    assert rows(overcooked)[1]["fidelity"] == 0.9
    assert "bleed" not in rows(overcooked)[1]


def test_the_base_is_one_row_at_any_strength(tmp_path, training):
    pictures = {("pose", epoch, 1): creature(GREEN) for epoch in (0, 1)}
    found = evaluation(tmp_path, pictures, strengths=(0.5, 1.0))
    found.cells.append(Rendered("pose", 0, 1.0, 1, "cells/pose-0-1.png"))
    found.cells.append(Rendered("pose", 1, 1.0, 1, "cells/pose-1-1.png"))
    score(found, tmp_path, training)
    assert [(row.epoch, row.strength) for row in found.rows] == [(0, 0.5), (1, 0.5), (1, 1.0)]


def test_missing_and_broken_files_are_left_out(tmp_path, training, overcooked):
    (tmp_path / overcooked.cells[0].file).write_bytes(b"not a picture")
    (tmp_path / overcooked.cells[1].file).unlink()
    training[0].write_bytes(training[0].read_bytes()[:80])
    score(overcooked, tmp_path, [*training, tmp_path / "gone.png"])
    assert not overcooked.cells[0].scores
    assert all(math.isfinite(value) for scores in rows(overcooked).values() for value in scores.values())


def test_without_training_pictures_only_what_needs_none_is_measured(tmp_path, overcooked):
    score(overcooked, tmp_path, [])
    assert set(rows(overcooked)[1]) == {"bleed", "diversity"}


def test_an_evaluation_without_pictures_has_no_scores(tmp_path, training):
    found = evaluation(tmp_path, {})
    score(found, tmp_path, training)
    assert found.rows == []


def test_memorisation_sees_a_copy(tmp_path, training):
    copy, own = Image.open(training[1]), creature(GREEN, ground=(200, 180, 220), at=(6, 6))
    found = evaluation(tmp_path, {("pose", 1, 1): own, ("pose", 2, 1): copy})
    score(found, tmp_path, training)
    assert rows(found)[2]["memorisation"] > rows(found)[1]["memorisation"] + 0.02


def test_every_metric_says_what_it_means_and_when_it_misleads():
    for metric in METRICS.values():
        assert metric.meaning.endswith(".") and metric.misleads.endswith(".")
        assert metric.better in ("higher", "lower", "")
        assert bool(metric.of_picture) != bool(metric.of_row)


# The built-in descriptor


def test_the_descriptor_is_a_unit_vector_at_any_size_and_shape():
    for size in [(1, 1), (8, 300), (2048, 64), (128, 128)]:
        vector = describe(Image.new("RGB", size, "white"))
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_the_descriptor_does_not_depend_on_resolution():
    picture = creature(GREEN, size=512)
    assert describe(picture) @ describe(picture.resize((128, 128))) > 0.97


def test_the_descriptor_tells_colour_and_shape_apart():
    wanted = describe(creature(GREEN))
    same = wanted @ describe(creature(GREEN, at=(3, -2)))
    other_colour = wanted @ describe(creature(RED))
    other_shape = wanted @ describe(creature(GREEN, "rectangle"))
    assert same > other_shape > wanted @ describe(creature(RED, "rectangle", SKY))
    assert same > other_colour


def test_tone_sees_contrast_colour_and_noise():
    plain = creature(GREEN, ground=(128, 128, 128), size=128)
    noisy = np.asarray(plain, np.int16) + np.random.default_rng(0).integers(-40, 40, (128, 128, 1))
    noisy = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    assert tone(noisy, 128)[3] > 2 * tone(plain, 128)[3]
    assert tone(ImageEnhance.Color(plain).enhance(2), 128)[1] > tone(plain, 128)[1]
    assert tone(ImageEnhance.Contrast(plain).enhance(2), 128)[2] > tone(plain, 128)[2]


def test_pictures_are_opened_as_rgb_with_transparency_on_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "print.jpg")
    Image.new("P", (4, 4)).save(tmp_path / "palette.gif", transparency=0)
    assert open_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(tmp_path / "print.jpg").mode == "RGB"
    assert open_picture(tmp_path / "palette.gif").getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(tmp_path / "nothing.png") is None


@pytest.mark.parametrize(
    ("prompt", "trigger", "words"),
    [
        ("moss, sitting", "moss", "sitting"),
        ("(moss:1.2), ((hat)), [smile:0.8], <lora:moss:0.8>", "moss", "hat, smile"),
        ("mossy rock, Moss", "moss", "mossy rock"),
        (r"saber \(fate\), moss", "moss", "saber (fate)"),
        ("at 10:30, a cat", "", "at 10:30, a cat"),
        ("moss", "moss", ""),
    ],
)
def test_plain_words(prompt, trigger, words):
    assert plain_words(prompt, trigger) == words


# With CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIPModel of random weights with a tokenizer of single letters: everything that a real folder has."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = size | {"vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 54, "eos_token_id": 55}
    vision = size | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    mean_and_deviation = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps(mean_and_deviation))
    return folder


def test_with_clip_the_same_scores_come_from_it_and_prompts_are_compared(tmp_path, training, overcooked, clip_folder):
    score(overcooked, tmp_path, training, clip_folder, trigger="moss")
    good = rows(overcooked)[1]
    assert set(good) == {"likeness", "bleed", "diversity", "memorisation", "burn", "prompt"}
    assert -1 <= good["prompt"] <= 1
    assert overcooked.about["Scores from"] == f"CLIP ({clip_folder.name})"


def test_clip_pictures_are_cropped_to_the_centre_and_normalised(clip_folder):
    clip = Clip(clip_folder)
    wide = Image.new("RGB", (96, 32), "black")
    wide.paste("white", (32, 0, 64, 32))
    prepared = clip.how(wide)
    assert prepared.shape == (3, 32, 32) and prepared.dtype == np.float32
    assert prepared[:, 4:-4, 4:-4] == pytest.approx((1 - 0.5) / 0.25)
    assert np.linalg.norm(clip.picture(wide)) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(clip.text("a very long prompt " * 20)) == pytest.approx(1, abs=1e-5)


def test_the_clip_vector_is_the_models_own(clip_folder):
    import torch

    clip = Clip(clip_folder)
    picture = creature(GREEN)
    with torch.no_grad():
        output = clip.model(
            pixel_values=torch.from_numpy(clip.how(picture))[None].to(clip.device),
            **clip.tokenizer("hat", return_tensors="pt").to(clip.device),
        )
    assert clip.picture(picture) == pytest.approx(output.image_embeds[0].cpu().numpy(), abs=1e-5)
    assert clip.text("hat") == pytest.approx(output.text_embeds[0].cpu().numpy(), abs=1e-5)


def test_a_hub_id_means_the_model_in_the_hubs_cache(tmp_path, clip_folder):
    """With its own preprocessing. Nothing is fetched."""
    model = tmp_path / "hub" / "models--somebody--clip"
    shutil.copytree(clip_folder, model / "snapshots" / "abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    code = (
        "from pathlib import Path; from PIL import Image; from trainer.metrics import Clip\n"
        "clip = Clip(Path('somebody/clip'))\n"
        "print(clip.how(Image.new('RGB', (40, 40), 'black')).min())\n"
        "Clip(Path('somebody/else'))\n"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert float(done.stdout) == -0.5 / 0.25, done.stderr
    assert "somebody/else holds no CLIP model" in done.stderr


def test_a_folder_without_clip_is_refused_by_name(tmp_path, overcooked):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no CLIP model"):
        score(overcooked, tmp_path, [], tmp_path / "empty")


def dino_folder(folder):
    """A miniature of dino-vits16 with random weights, as transformers saves it."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_an_aesthetic_predictor_reads_the_clip_vector(tmp_path, training, overcooked, clip_folder, ending):
    """LAION's layout: linear layers with gaps in their numbers, more than ten of them in order."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = {0: (8, 6), 2: (6, 5), 10: (5, 1)}
    layers = {number: torch.nn.Linear(*size) for number, size in sizes.items()}
    state = {
        f"layers.{number}.{key}": value for number, one in layers.items() for key, value in one.state_dict().items()
    }
    file = tmp_path / f"marks{ending}"
    (torch.save if ending == ".pth" else save_file)(state, file)
    score(overcooked, tmp_path, training, clip_folder, aesthetic=file)
    cell = overcooked.cells[0]
    vector = torch.tensor(Clip(clip_folder).picture(open_picture(tmp_path / cell.file)))
    with torch.no_grad():
        wanted = float(torch.nn.Sequential(*layers.values())(vector))
    assert cell.scores["aesthetic"] == pytest.approx(wanted, abs=1e-4)
    assert overcooked.about["Scores from"].endswith(f"marks (marks{ending})")
    score(overcooked, tmp_path, training, clip_folder)
    assert "aesthetic" in cell.scores  # an earlier scoring's, by another model than now: it stays
    with pytest.raises(UserError, match="--clip"):
        score(overcooked, tmp_path, training, aesthetic=file)
    del state["layers.2.weight"]
    (torch.save if ending == ".pth" else save_file)(state, file)
    with pytest.raises(UserError, match="vectors have 8 numbers"):
        score(overcooked, tmp_path, training, clip_folder, aesthetic=file)
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read as an aesthetic predictor"):
        score(overcooked, tmp_path, training, clip_folder, aesthetic=file)


def test_a_metric_of_another_package_is_one_of_them(tmp_path, training, overcooked):
    """Named under entry points as an installed package does; a broken one and a wrong one are warned of."""
    package = tmp_path / "site"
    (package / "faces-1.0.dist-info").mkdir(parents=True)
    (package / "faces-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: faces\nVersion: 1.0\n")
    points = "face = faces:FACE\nbroken = faces:NONE\nwrong = faces:face\nburn = faces:FACE\n"
    (package / "faces-1.0.dist-info" / "entry_points.txt").write_text(f"[lora_studio.metrics]\n{points}")
    (package / "faces.py").write_text(
        "def face(pictures, cell):\n"
        "    return pictures.image(cell).width / next(pictures.training_images()).width\n"
        "from trainer.metrics import Metric\n"
        "FACE = Metric('Face', 'Means.', 'Misleads.', 'higher', face)\n"
    )
    code = (
        "from trainer.metrics import METRICS, score\n"
        "from trainer.cells import Evaluation\n"
        "from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "found = Evaluation.load(folder)\n"
        "score(found, folder, sorted((folder / 'training').iterdir()))\n"
        "print(METRICS['burn'].label, list(METRICS)[-1], [row.scores['face'] for row in found.rows])\n"
    )
    overcooked.save(tmp_path)
    paths = os.pathsep.join([str(package), os.getcwd()])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.stdout.split(maxsplit=2) == ["Burn", "face", "[1.0, 1.0, 1.0]\n"], done.stderr
    assert "broken (faces:NONE) cannot be loaded" in done.stderr and "wrong (faces:face) is no" in done.stderr


def test_dino_gives_a_second_likeness_from_its_class_token(tmp_path, training, overcooked):
    folder = dino_folder(tmp_path / "dino")
    score(overcooked, tmp_path, training, dino=folder)
    model = Dino(folder)
    cells = [cell for cell in overcooked.cells if cell.epoch == 1 and cell.column != "leak"]
    shown = [model.picture(open_picture(path)) for path in training]
    wanted = [model.picture(open_picture(tmp_path / cell.file)) @ np.array(shown).T for cell in cells]
    assert rows(overcooked)[1]["dino"] == pytest.approx(np.mean(wanted), abs=1e-4)
    assert "dino" in overcooked.about["Scores from"]
    assert np.linalg.norm(shown[0]) == pytest.approx(1, abs=1e-5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no DINO model"):
        Dino(tmp_path / "empty")


def test_response_is_the_rise_from_the_next_lower_strength(tmp_path, training):
    pictures = {("pose", 0, 1): creature(BLUE, "rectangle")}
    found = evaluation(tmp_path, pictures, strengths=(0.5, 1.0, 1.5))
    steps = {0.5: creature(BLUE), 1.0: creature(GREEN), 1.5: creature(GREEN)}
    for strength, image in steps.items():
        found.cells.append(Rendered("pose", 1, strength, 1, f"cells/{strength}.png"))
        image.save(tmp_path / found.cells[-1].file)
    found.epochs = [0, 1]
    score(found, tmp_path, training)
    ground = describe(pictures["pose", 0, 1])
    far = {strength: 1 - describe(image) @ ground for strength, image in steps.items()}
    said = {row.strength: row.scores.get("response") for row in found.rows if row.epoch == 1}
    wanted = {0.5: far[0.5] / 0.5, 1.0: (far[1.0] - far[0.5]) / 0.5, 1.5: 0.0}
    assert said == pytest.approx(wanted, abs=1e-3) and said[1.0] > 0.05
    assert "response" not in rows(found)[0]


def test_losses_and_the_gap_between_them(tmp_path, training, overcooked):
    losses = {
        (0, 1.0): {"training": 0.2, "held_out": 0.3},
        (1, 1.0): {"training": 0.1, "held_out": 0.15},
        (2, 1.0): {"training": 0.05, "held_out": 0.15},
    }
    score(overcooked, tmp_path, training, losses=losses)
    said = rows(overcooked)
    assert [said[epoch]["loss"] for epoch in (0, 1, 2)] == [0.2, 0.1, 0.05]
    assert [said[epoch]["gap"] for epoch in (0, 1, 2)] == pytest.approx([0, 0, 1])
    assert said[2]["held_out"] == 0.15
    overcooked.rows.clear()
    score(overcooked, tmp_path, training, losses={key: {"training": 0.2} for key in losses})
    assert "gap" not in rows(overcooked)[1] and rows(overcooked)[1]["loss"] == 0.2
