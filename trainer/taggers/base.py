"""What every tagger takes and gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Tags = list[tuple[str, float]]
"""(tag, probability 0 to 1), most probable first."""


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


DEFAULTS = TagOptions()


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
