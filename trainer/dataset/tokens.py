"""How many tokens CLIP makes of a caption, exactly, without torch: the tokenizer's files are enough.

All of SD 1.5 and SDXL share one vocabulary; the toybox has its own. Checkpoints in one file bring none along, so it is
looked for beside them, where LORA_STUDIO_TOKENIZER points, in the hub's cache, and in the tools that ship it.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from trainer import toybox
from trainer.dataset.names import shown
from trainer.errors import UserError

VARIABLE = "LORA_STUDIO_TOKENIZER"
HUB = "models--openai--clip-vit-large-patch14"
SHIPPED = (
    "comfy/sd1_tokenizer",  # ComfyUI
    "backend/huggingface/stabilityai/stable-diffusion-xl-base-1.0/tokenizer",  # Forge
    "backend/huggingface/runwayml/stable-diffusion-v1-5/tokenizer",
)
# openai/CLIP, simple_tokenizer.py: what a text is cut into before byte pairs are merged.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

REMEMBERED = 100_000  # texts whose tokens are not counted again


class Counter:
    """Counts with the tokenizer in this folder (vocab.json and merges.txt, or tokenizer.json)."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._known: dict[str, int] = {}  # after an edit the other ten thousand captions are what they were

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without those for begin and end. Raises UserError for files that are no tokenizer."""
        known = self._known if len(self._known) < REMEMBERED else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        found = self._tokenizer.encode_batch(new, add_special_tokens=False)
        known.update((text, len(one.ids)) for text, one in zip(new, found))
        self._known = known
        return [known[text] for text in texts]

    @cached_property
    def _tokenizer(self):
        try:
            whole = self.folder / "tokenizer.json"
            if not (self.folder / "vocab.json").is_file():
                from tokenizers import Tokenizer

                return Tokenizer.from_file(str(whole))
            return _assembled(self.folder)
        except Exception as error:  # tokenizers raises bare Exceptions
            raise UserError(f"{shown(self.folder)} holds no usable CLIP tokenizer: get its files again.") from error


def find(base: str, tools: Iterable[Path] = ()) -> Path | None:
    """The folder of this base model's tokenizer, None where none is at hand. `tools`: folders of other programs."""
    return next((folder for folder in _places(base, tools) if holds(folder)), None)


def holds(folder: Path) -> bool:
    """Whether a folder has a tokenizer's files."""
    pair = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    return pair or (folder / "tokenizer.json").is_file()


def _places(base: str, tools: Iterable[Path]) -> Iterator[Path]:
    path = toybox.located(base)
    if path.is_dir():
        yield path / "tokenizer"
        return
    if path.is_file():
        yield path.resolve().parent / "tokenizer"
    elif not base or path.is_absolute() or path.suffix in (".safetensors", ".ckpt"):
        return  # no base at all
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    if not path.is_file():
        yield from sorted(cache.expanduser().glob(f"models--{base.replace('/', '--')}/snapshots/*/tokenizer"))
        return
    if named := os.environ.get(VARIABLE):
        yield from (Path(named).expanduser() / "tokenizer", Path(named).expanduser())
    yield from sorted(cache.expanduser().glob(f"{HUB}/snapshots/*"))
    yield from (Path(tool) / name for tool in tools for name in SHIPPED)


def _assembled(folder: Path):
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
    # A pair that makes no known token can never be merged, and tokenizers refuses the file for it.
    merges = [pair for pair in merges if "".join(pair) in vocabulary]
    found = Tokenizer(
        models.BPE(
            vocabulary, merges, end_of_word_suffix="</w>", continuing_subword_prefix="", unk_token="<|endoftext|>"
        )
    )
    found.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    found.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    found.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    return found
