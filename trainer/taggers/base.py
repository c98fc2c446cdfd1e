"""What every tagger takes and gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainer.dataset import captions
from trainer.dataset.tags import is_prose

Tags = list[tuple[str, float]]
"""(tag, probability 0 to 1), most probable first."""


@dataclass(frozen=True)
class Service:
    """How a server is asked."""

    timeout: float = 120.0
    """Seconds to wait for one answer."""
    retries: int = 3
    """Further tries when there is no answer or the server is busy."""
    pause: float = 1.0
    """Seconds before the first of them, twice as long before each further one; unless the server names a time."""
    rate: float = 0.0
    """Requests that may start in a second; 0 sets no limit."""
    parallel: int = 2
    """Requests under way at once."""


@dataclass(frozen=True)
class TagOptions:
    """Which of a tagger's answers are kept, and how they are written."""

    threshold: float = 0.35
    """Least probability of a general tag."""
    character_threshold: float = 0.85
    """Least probability of a known character's name: a wrong name hurts more than a missing one."""
    ratings: bool = False
    """Keep the most probable rating (general, sensitive, ...) as a tag."""
    spaces: bool = True
    """`blue hair` for `blue_hair`; faces such as `^_^` keep their underscore."""
    escape: bool = True
    r"""`\(` for `(`, because prompts read bare parentheses as emphasis."""
    exclude: tuple[str, ...] = ()
    """Tags that are never written, in any spelling."""
    replace: Mapping[str, str] = field(default_factory=dict)
    """Tag -> what to write for it, in any spelling."""
    prompt: str = ""
    """What models on a server are asked; {name} and {caption} are filled in. Empty: a question of our own."""
    service: Service = Service()


DEFAULTS = TagOptions()


def as_tags(text: str, options: TagOptions) -> Tags:
    """What a captioner wrote: sentences as one piece, a list of tags as tags; exclusions and replacements applied.

    Captioners give no probabilities, so all of it counts as sure.
    """
    if not text:
        return []
    pieces = [text] if is_prose(text) else captions.split(text)
    unwanted = {captions.same(tag) for tag in options.exclude}
    table = {captions.same(old): new for old, new in options.replace.items()}
    kept = [table.get(captions.same(tag), tag) for tag in pieces if captions.same(tag) not in unwanted]
    return [(tag, 1.0) for tag in kept if tag]


class Tagger(Protocol):
    """A loaded model."""

    name: str

    def tag(
        self,
        paths: Sequence[Path],
        options: TagOptions = DEFAULTS,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[Path, Tags]]:
        """Each picture with its tags, in the order given, as soon as its batch is done.

        `progress` is called with (done, total) after every batch. Raises UserError for a picture that
        cannot be read.
        """
        ...
