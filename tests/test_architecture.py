"""Who may import whom: cli → stories → components → contract, and the studio only the contract."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trainees

ROOT = Path(__file__).parent.parent
CONTRACT = set("errors files config presets run cells examples texts checks schedules dataset taggers webui".split())
CONTRACT |= {"locks", "pnginfo", "prompt_sets", "vote", "preference", "blocks", "axes"}
COMPONENTS = set("families adapters optimizers losses noise metrics kohya toybox".split())
COMPONENTS |= {"grid", "drawing", "lettering", "report", "recommend", "environment", "quantize", "augment", "graphs"}
COMPONENTS |= {"stack", "shelf", "upscalers", "conditioning"}
STORIES = set("batches encoding preparation loop checkpoint record render evaluate export tag demo doctor".split())
STORIES |= {"explain", "voting", "averages", "processes", "validation", "step", "basecheck", "hires", "denoising"}
STORIES |= {"costs", "grid_costs", "estimate", "fitting", "guidance", "lifetime", "places", "sidecars", "sampling"}
STORIES |= {"terminal"}
# What a component may take from another, and why.
ALLOWED = {
    ("adapters", "families"): "a LoRA sits on a BaseModel",
    ("adapters", "kohya"): "a file of another rank is fitted with the algebra of files",
    ("kohya", "families"): "names and shapes of a family's modules, for types and for telling files apart",
    ("kohya", "optimizers"): "which of sd-scripts' optimizers there are",
    ("report", "grid"): "the report is the grid in another form: same table",
    ("report", "metrics"): "labels of the scores",
    ("grid", "metrics"): "labels of the scores",
    ("drawing", "grid"): "draws its rows and columns",
    ("drawing", "lettering"): "writes into pictures",
    ("drawing", "metrics"): "opens pictures as they were measured",
    ("conditioning", "families"): "text encoders and tokenizers of a BaseModel",
    ("stack", "families"): "a LoRA sits on a BaseModel",
    ("stack", "kohya"): "reads LoRA files",
    ("stack", "adapters"): "where the modules are that a file names",
    ("shelf", "kohya"): "headers and hashes of the files that prompts name",
    ("recommend", "metrics"): "which scores are better high",
    ("environment", "kohya"): "what a run's environment says in the file's metadata",
    ("environment", "families"): "how files are hashed",
    ("families", "toybox"): "toybox/sd15 is a path",
}


# What the studio may see besides the contract: names for its choices and readers that need no torch.
STUDIO = CONTRACT | {
    "optimizers",  # a registry of names
    "toybox",  # a table of paths
    "kohya",  # describe() reads a file's header
    "report",  # the comparison as a page, whose viewer Compare shows
    "grid",  # Table: a comparison's rows and columns
    "voting",  # the blind vote, and what it changes in the recommendation
}


def room(path: Path) -> str:
    return path.relative_to(ROOT / "trainer").parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of trainer/ that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "trainer":
                found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return found


FILES = [
    path
    for path in sorted((ROOT / "trainer").rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "cli"
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_inwards(path):
    here, others = room(path), imported_rooms(path) - {room(path)}
    assert here in CONTRACT | COMPONENTS | STORIES, f"{here}: say in this test which layer the new room belongs to"
    if here in CONTRACT:
        # A tagger's weights may lie in the toybox, which is only a table of paths.
        assert others <= CONTRACT | {"toybox", "optimizers"}
    elif here in COMPONENTS:
        beyond = {other for other in others if other not in CONTRACT and (here, other) not in ALLOWED}
        assert not beyond
    assert not others & {"__main__", "cli"}


@pytest.mark.parametrize("path", sorted((ROOT / "studio").rglob("*.py")), ids=lambda path: path.name)
def test_the_studio_sees_the_contract_only(path):
    assert imported_rooms(path) <= STUDIO


def test_processes_are_started_in_one_place():
    starters = [path.name for path in (ROOT / "studio").rglob("*.py") if "subprocess" in path.read_text("utf-8")]
    assert starters == ["jobs.py"]


STUDIO_MODULES = ["studio.app", "studio.panels", "studio.forms", "studio.jobs", "trainer.kohya", "trainer.grid"]
STUDIO_MODULES += ["trainer.voting", "studio.line", "studio.gallery", "studio.loras", "studio.ballot"]
CHEAP = ["trainer.run", "trainer.config", "trainer.cells", "trainer.taggers", "trainer.vote"]


@pytest.mark.parametrize("module", STUDIO_MODULES + CHEAP)
def test_the_contract_is_cheap(module):
    """No torch, and no streamlit inside the trainer."""
    unwanted = ["torch", "diffusers", "peft", "transformers"] + ["streamlit"] * module.startswith("trainer")
    code = (
        f"import sys, logging; logging.disable()\nimport {module}\n"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


COMMANDS = ["--help", "status", "presets", "settings", "train --help", "estimate --help"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_only_tells_is_cheap(command, tmp_path):
    imported = modules_of(f"{PRELUDE}\nsys.argv[1:] = {command.split()}", tmp_path)
    heavy = {"torch", "diffusers", "peft", "transformers", "accelerate", "streamlit", "onnxruntime"}
    assert sorted(imported & heavy) == []


# What other commands, optimizers and storages need, and what the libraries would take along. tensorflow: TensorBoard's
# event files are written without it.
SPARED = "streamlit onnxruntime pytorch_optimizer prodigyopt schedulefree sklearn matplotlib tensorflow cv2 av"


def test_a_training_imports_only_what_it_needs(tmp_path):
    """Each of these would lie in main memory until the last step; benchmarks/RESULTS.md says how much."""
    trainees.draw_pictures(tmp_path / "pictures", trainees.SIZES[:1])
    small = {"data.resolution": 64, "data.repeats": 1, "loop.epochs": 1, "optimizer.name": "AdamW"}
    options = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    arguments = ["train", "--preset", "toybox", "--base", "toybox/sd15", "--data", "pictures", *options]
    imported = modules_of(f"{PRELUDE}\nsys.argv[1:] = {arguments}", tmp_path)
    assert list((tmp_path / "runs").glob("*/epochs/*.safetensors"))
    assert {"torch", "diffusers", "tensorboard"} <= imported
    assert sorted(imported & set(SPARED.split())) == []


PRELUDE = "import logging, sys; logging.disable()"
COMMAND = """
from trainer.__main__ import main
try:
    code = main()
except SystemExit as end:
    code = end.code
print("modules:", *{name.partition(".")[0] for name in sys.modules})
sys.exit(code)
"""


def modules_of(setup: str, folder: Path) -> set[str]:
    """The packages that the command line has imported when it ends."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", setup + COMMAND], cwd=folder, env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("modules:")[2].split())


def test_the_trainer_never_imports_streamlit():
    assert not [path for path in (ROOT / "trainer").rglob("*.py") if "import streamlit" in path.read_text("utf-8")]


def test_the_users_datasets_folder_does_not_shadow_the_library():
    import datasets

    assert hasattr(datasets, "load_dataset")
    assert not (ROOT / "datasets" / "__init__.py").exists()
