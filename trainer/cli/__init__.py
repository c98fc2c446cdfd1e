"""The command line: one verb per story, one file per group of verbs. `lora-studio --help` lists them."""

# In the order in which `--help` shows them: that of the work.
from trainer.cli import dataset, pictures, byhand, training, comparing, migrating, conventions, around  # isort: skip
from trainer.cli.app import app

__all__ = ["app", "around", "byhand", "comparing", "conventions", "dataset", "migrating", "pictures", "training"]
