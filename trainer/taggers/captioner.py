"""What the captioners of the transformers library share: load once, then sentences batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from trainer.dataset import images
from trainer.dataset.ahead import ahead
from trainer.dataset.names import shown
from trainer.errors import UserError
from trainer.taggers.base import DEFAULTS, TagOptions, Tags, as_tags
from trainer.taggers.sources import located

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
WORDS = ("tokenizer.json", "vocab.txt", "vocab.json")
NEEDED = (("config.json",), WEIGHTS, ("preprocessor_config.json", "processor_config.json"), WORDS)
# What a hub model may have besides: shards, settings, merges. Never code.
FETCHED = ("*.json", "*.txt", "model-*.safetensors", "pytorch_model-*.bin")
LONGEST = 120
"""Tokens of one caption at most; CLIP reads 75 of them at a time."""


def folder_of(where: str, example: str) -> Path:
    """The model's folder. Raises UserError with the layout when it is not there."""

    def layout(folder: Path) -> str:
        files = ", ".join(group[0] for group in NEEDED)
        return f"put the files of {example} there: {files} (the tokenizer may be vocab.txt or vocab.json instead)."

    return located(where, NEEDED, layout, FETCHED)


def model_type(folder: Path) -> str:
    """As config.json names it. Raises UserError for a file that does not."""
    import json

    try:
        return str(json.loads((folder / "config.json").read_text("utf-8"))["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{shown(folder / 'config.json')} names no model_type: fetch the model again.") from error


def _check_whole(model, missing: Iterable[str], folder: Path) -> None:
    """Weights that the file lacks are drawn at random by the library, which only warns: the captions would be noise.

    A few small ones are missing in good files as well. Raises UserError above a hundredth of the weights.
    """
    sizes = {name: weight.numel() for name, weight in model.state_dict().items()}
    missing = [name for name in missing if name in sizes]
    if sum(sizes[name] for name in missing) > 0.01 * sum(sizes.values()):
        raise UserError(
            f"The captioner in {shown(folder)} lacks {len(missing)} of {len(sizes)} weights, such as {missing[0]}: "
            f"take a release in the layout of the transformers library."
        )


class Captioner:
    """A loaded model with its processor; runs on CUDA in half precision where there is one, else on the CPU."""

    def __init__(self, folder: Path, model_class: str, *, prompt: str = "", batch_size: int = 4):
        import torch
        import transformers

        self.name = folder.name
        self.prompt = prompt
        self.batch_size = batch_size
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._type = torch.float16 if self._device == "cuda" else torch.float32
        try:
            # No code of the model's own is ever run.
            self._processor: Any = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            load = getattr(transformers, model_class).from_pretrained
            model, told = load(folder, dtype=self._type, trust_remote_code=False, output_loading_info=True)
        except Exception as error:  # the library raises whatever the damaged file makes it raise
            reason = shown(" ".join(str(error).split()))[:160]
            raise UserError(f"The captioner in {shown(folder)} cannot be loaded ({reason}): fetch it again.") from error
        _check_whole(model, told["missing_keys"], folder)
        self._model = model.to(self._device).eval()

    def tag(
        self,
        paths: Sequence[Path],
        options: TagOptions = DEFAULTS,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Path, Tags]]:
        """See `Tagger.tag`: one sentence a picture, or the tags that a model trained on tags gives."""
        opened = ahead(lambda path: (path, images.open_rgb(path)), paths, depth=2 * self.batch_size)
        done = 0
        while batch := list(islice(opened, self.batch_size)):
            for (path, _), text in zip(batch, self._captions([picture for _, picture in batch]), strict=True):
                yield path, as_tags(text, options)
            done += len(batch)
            if progress:
                progress(done, len(paths))

    def _captions(self, pictures: list) -> list[str]:
        import torch

        words = {"text": [self.prompt] * len(pictures)} if self.prompt else {}
        inputs = self._processor(images=pictures, **words, return_tensors="pt").to(self._device, self._type)
        # Beams, as the models' authors use; the same picture gives the same caption.
        with torch.inference_mode():
            ids = self._model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=LONGEST)
        return [" ".join(text.split()) for text in self._processor.batch_decode(ids, skip_special_tokens=True)]
