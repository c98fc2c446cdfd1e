"""What becomes of a caption in one step: dropped, chosen from wildcards, thinned out, shuffled, framed.

Everything random is drawn from the step's own seed, each option from a generator of its own, so that the same
seed gives the same words and turning one option on leaves the draws of the others as they were.
"""

import random
import re
from collections.abc import Callable

from trainer.config import DataConfig
from trainer.dataset.captions import join, split

_CHOICE = re.compile(r"\{([^{}]+)\}")


def for_step(caption: str, settings: DataConfig, seed: int, epoch: int = 0) -> str:
    """The caption as it is trained in one step; `epoch` counts from 0.

    "" where it is dropped (the unconditional case, which guidance needs). Otherwise a wildcard becomes one of
    its words, tags drop out and change places except the kept ones, and prefix and suffix frame the whole.
    Without shuffling and dropping the text stays as written; separators are never trained.
    """
    rng = random.Random(seed)
    # Drawn first and always, so that turning shuffle on does not change which captions are dropped.
    if rng.random() < settings.caption_dropout or _left_out(epoch, settings.caption_dropout_every):
        return ""
    if settings.wildcards:
        caption = chosen(caption, random.Random(f"{seed}/wildcards").choice)
    thinner = random.Random(f"{seed}/tags")

    def rearranged(tags: list[str]) -> list[str]:
        if settings.shuffle_tags:
            rng.shuffle(tags)
        return [tag for tag in tags if thinner.random() >= settings.tag_dropout]

    moves = settings.shuffle_tags or settings.tag_dropout > 0
    return _framed(_rearranged(caption, settings, rearranged) if moves else _as_written(caption, settings), settings)


def fullest(caption: str, settings: DataConfig) -> str:
    """The caption with nothing dropped or moved, and the longest word of each wildcard."""
    if settings.wildcards:
        caption = chosen(caption, lambda options: max(options, key=len))
    return _framed(_as_written(caption, settings), settings)


def varies(settings: DataConfig) -> bool:
    """Whether one caption may become several texts, besides none at all."""
    return settings.shuffle_tags or settings.tag_dropout > 0 or settings.wildcards


def chosen(caption: str, choose: Callable[[list[str]], str]) -> str:
    """One line of several, and one of the words in each pair of braces.

    >>> chosen("a {red|blue} hat, {{eyes}}", max)
    'a red hat, {eyes}'
    """
    lines = [line.strip() for line in caption.split("\n") if line.strip()]
    line = choose(lines) if len(lines) > 1 else caption
    # Doubled braces mean themselves; two characters that no text holds keep their places meanwhile.
    line = line.replace("{{", "\0").replace("}}", "\1")
    line = _CHOICE.sub(lambda match: choose(match[1].split("|")).strip(), line)
    return line.replace("\0", "{").replace("\1", "}")


def _left_out(epoch: int, every: int) -> bool:
    return every > 0 and (epoch + 1) % every == 0


def _parts(caption: str, separator: str) -> list[str]:
    """Kept, moving and kept again, as far as the separator parts them."""
    parts = caption.split(separator) if separator else [caption]
    return parts[:2] + ([", ".join(parts[2:])] if len(parts) > 2 else [])


def _as_written(caption: str, settings: DataConfig) -> str:
    parts = [part.strip(", \t\n") for part in _parts(caption, settings.keep_tokens_separator)]
    return caption if len(parts) == 1 else join(part for part in parts if part)


def _rearranged(caption: str, settings: DataConfig, rearrange: Callable[[list[str]], list[str]]) -> str:
    parts = [split(part) for part in _parts(caption, settings.keep_tokens_separator)]
    if len(parts) == 1:
        parts = [parts[0][: settings.keep_tokens], parts[0][settings.keep_tokens :]]
    fixed, moving, last = (*parts, [])[:3]
    return join(fixed + rearrange(moving) + last)


def _framed(text: str, settings: DataConfig) -> str:
    if settings.secondary_separator:
        text = join(part.strip() for part in text.split(settings.secondary_separator))
    framed = " ".join(part for part in (settings.caption_prefix, text, settings.caption_suffix) if part)
    return framed.replace(" ,", ",") if settings.caption_suffix.startswith(",") else framed
