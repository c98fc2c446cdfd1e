"""Is this folder ready to train? Findings with their remedies, and a score that says why.

Pure reading: nothing is changed but the index of what was read. Broken files and unreadable captions are findings
here, not errors.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.dataset import buckets, captions, formats, images, index
from trainer.dataset.ahead import ahead
from trainer.dataset.faces import Face, Faces
from trainer.dataset.findings import QUESTIONS, Finding, Folder, Severity
from trainer.dataset.images import Picture
from trainer.dataset.names import count
from trainer.errors import UserError

__all__ = ["KINDS", "Finding", "Health", "Severity", "check"]


@dataclass(frozen=True)
class Health:
    """The verdict on a folder."""

    score: int
    """0 to 100; 100 minus the points in `reasons`."""
    reasons: list[str]
    """Such as "−8: no caption (4 of 20 pictures)"."""
    findings: list[Finding]

    @property
    def ready(self) -> bool:
        """Nothing stands in the way of training."""
        return not any(finding.severity == "error" for finding in self.findings)


# What each kind costs when every picture has it. Our own judgement: what stops training or teaches wrong
# words costs most; what may well be intended costs nothing.
KINDS: dict[str, int] = {
    "broken": 60,
    "caption unreadable": 60,
    "caption shared": 40,
    "no caption": 40,
    "empty caption": 40,
    "duplicate": 40,
    "trigger missing": 30,
    "small": 30,
    "small face": 15,
    "cropped": 25,
    "near duplicate": 25,
    "blurry": 25,
    "extreme": 25,
    "foreign": 20,
    "long caption": 15,
    "repeated caption": 10,
    "few pictures": 10,
    "animated": 10,
    "unbalanced": 5,
    "odd colours": 5,
    "turned": 0,
    "encodings": 0,
    "orphan": 0,
    "alpha": 0,
}


def check(
    folder: Path,
    *,
    trigger: str = "",
    resolution: int = 512,
    step: int = 64,
    format: str = "txt",
    known: Mapping[Path, Picture] | None = None,
    faces: Faces | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Health:
    """Look at every picture and caption under `folder`.

    `resolution` and `step` are those that training will use, in pixels; `format`: where captions are kept, a key of
    FORMATS. What is known about the pictures comes from the folder's index, or from `known` as for `images.scan`.
    With `faces` every picture is looked through for faces. `progress` gets (done, total), for faces once more. Raises
    UserError only when there is no folder or no picture in it, and for one file of all captions that cannot be read.
    """
    seen = look(Path(folder), trigger, resolution, step, format, known, progress)
    if faces:
        seen = replace(seen, faces=dict(_faces_in(seen.pictures, faces, progress)))
    return judged(seen, [finding for find in QUESTIONS for finding in find(seen, resolution)])


def judged(seen: Folder, findings: list[Finding]) -> Health:
    """The verdict from what the questions found, in their order."""
    total = len(seen.pictures) + len(seen.broken)
    reasons, score = _judge(findings, total)
    order = {"error": 0, "warning": 1, "hint": 2}
    return Health(score, reasons, sorted(findings, key=lambda finding: order[finding.severity]))


def look(folder: Path, trigger, resolution, step, format, known=None, progress=None, texts=True) -> Folder:
    """What the questions are asked about; without its captions where `texts` is False."""
    pictures, broken = index.survey(folder, progress=progress) if known is None else images.survey(folder, known=known)
    found: dict[Path, str | None] = {}
    unreadable: dict[Path, str] = {}
    if texts and format not in formats.SIDECARS:
        found = formats.read(folder, [picture.path for picture in pictures], format)
    for picture in pictures if texts and format in formats.SIDECARS else ():
        try:
            found[picture.path] = captions.caption_of(picture.path, formats.SIDECARS[format])
        except UserError as error:
            unreadable[picture.path] = str(error)
    sizes = buckets.make_buckets(resolution, step=step)
    placements = {p.path: buckets.place(p.width, p.height, sizes, step=step) for p in pictures}
    return Folder(folder, pictures, broken, found, unreadable, trigger, format, placements)


def _faces_in(pictures: Sequence[Picture], faces: Faces, progress) -> Iterator[tuple[Path, list[Face]]]:
    opened = ahead(lambda picture: images.open_rgb(picture.path), pictures, depth=4)
    for done, (picture, rgb) in enumerate(zip(pictures, opened), start=1):
        yield picture.path, faces.find(rgb)
        if progress:
            progress(done, len(pictures))


def _judge(findings: list[Finding], total: int) -> tuple[list[str], int]:
    """Each kind costs its weight times the share of pictures it touches, and at least one point."""
    affected: dict[str, set] = defaultdict(set)
    for finding in findings:
        affected[finding.kind].add(finding.file)
    reasons, score = [], 100
    for kind, weight in KINDS.items():
        if weight and affected[kind]:
            # A finding about the folder is about all of its pictures.
            number = total if None in affected[kind] else len(affected[kind])
            points = math.ceil(weight * min(1.0, number / total))
            reasons.append(f"−{points}: {kind} ({number} of {count(total, 'picture')})")
            score -= points
    return reasons, max(0, score)
