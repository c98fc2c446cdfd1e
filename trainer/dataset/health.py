"""Is this folder ready to train? Findings with their remedies, and a score that says why.

Pure reading: nothing is changed. Broken files and unreadable captions are findings here, not errors.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.dataset import buckets, captions, images
from trainer.dataset.images import Picture
from trainer.dataset.names import count, listed, shown
from trainer.errors import UserError

Severity = Literal["error", "warning", "hint"]
"""error: training refuses or goes wrong; warning: the LoRA suffers; hint: worth knowing."""

EXTREME_CROP = 0.20
"""Share of a picture lost to its bucket from which it is worth a look."""

SMALL = 0.75
"""Below this share of the training resolution (by the square root of its area) enlarging visibly blurs."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file, or about the folder (`file` is None)."""

    kind: str
    """Key of KINDS, for filters."""
    severity: Severity
    file: Path | None
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.what}. {self.remedy}."


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


@dataclass(frozen=True)
class Folder:
    """What the checks look at."""

    path: Path
    pictures: Sequence[Picture]
    broken: Sequence[images.Broken]
    texts: Mapping[Path, str | None]
    """Picture -> caption; None without a caption file. Unreadable ones are absent."""
    unreadable: Mapping[Path, str]
    """Picture -> what is wrong with its caption file."""
    trigger: str
    extension: str
    placements: Mapping[Path, buckets.Placement]

    def caption_file(self, picture: Path) -> Path:
        return captions.sidecar(picture, self.extension)


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
    "cropped": 25,
    "foreign": 20,
    "few": 10,
    "animated": 10,
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
    extension: str = captions.EXTENSION,
    known: Mapping[Path, Picture] | None = None,
) -> Health:
    """Look at every picture and caption under `folder`.

    `resolution` and `step` are those that training will use, in pixels; `known` as for `images.scan`. Raises
    UserError only when there is no folder or no picture in it.
    """
    seen = _look(Path(folder), trigger, resolution, step, extension, known)
    findings = [finding for find in _CHECKS for finding in find(seen, resolution)]
    total = len(seen.pictures) + len(seen.broken)
    reasons, score = _judge(findings, total)
    order = {"error": 0, "warning": 1, "hint": 2}
    return Health(score, reasons, sorted(findings, key=lambda finding: order[finding.severity]))


def _look(folder: Path, trigger, resolution, step, extension, known) -> Folder:
    pictures, broken = images.survey(folder, known=known)
    texts: dict[Path, str | None] = {}
    unreadable: dict[Path, str] = {}
    for picture in pictures:
        try:
            texts[picture.path] = captions.caption_of(picture.path, extension)
        except UserError as error:
            unreadable[picture.path] = str(error)
    sizes = buckets.make_buckets(resolution, step=step)
    placements = {p.path: buckets.place(p.width, p.height, sizes, step=step) for p in pictures}
    return Folder(folder, pictures, broken, texts, unreadable, trigger, extension, placements)


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


# --- one function a question, each (folder, resolution) -> findings ---


def _broken(seen: Folder, _) -> list[Finding]:
    remedy = "Repair or remove it; training refuses a folder with broken pictures"
    return [Finding("broken", "error", b.path, str(b), remedy) for b in seen.broken]


def _foreign(seen: Folder, _) -> list[Finding]:
    return [
        Finding(
            "foreign",
            "warning",
            path,
            f"{shown(path.name)} is not used, {path.suffix.lower()} cannot be read",
            "Convert it to PNG or JPEG, or move it away",
        )
        for path in images.foreign(seen.path)
    ]


def _few(seen: Folder, _) -> list[Finding]:
    number = len(seen.pictures)
    if number >= 8:
        return []
    what = f"{count(number, 'picture')} may be too few: poses and backgrounds are learned along with the subject"
    return [Finding("few", "hint", None, what, "Add pictures in other poses, places and light, 15 to 30 in all")]


def _captions(seen: Folder, _) -> list[Finding]:
    findings = [
        Finding("caption unreadable", "error", path, what.rstrip("."), "Then check the folder again")
        for path, what in seen.unreadable.items()
    ]
    for path, text in seen.texts.items():
        name = shown(path.name)
        if text is None:
            remedy = f"Tag the folder, or write {shown(seen.caption_file(path).name)}"
            findings.append(Finding("no caption", "warning", path, f"{name} has no caption", remedy))
        elif not text:
            remedy = "Tag the folder, or write one; an empty caption teaches what a picture is without words"
            findings.append(Finding("empty caption", "warning", path, f"{name} has an empty caption", remedy))
        elif seen.trigger and not _mentions(text, seen.trigger):
            what = f"The caption of {name} lacks the trigger '{seen.trigger}'"
            remedy = "Put the trigger first in every caption, so that it is what the subject is learned under"
            findings.append(Finding("trigger missing", "warning", path, what, remedy))
    return findings


def _mentions(text: str, trigger: str) -> bool:
    """As a tag, or as words of a sentence."""
    words = " ".join(captions.same(text).replace(",", " ").split())
    return all(f" {captions.same(tag)} " in f" {words.rstrip('.')} " for tag in captions.split(trigger))


def _shared_captions(seen: Folder, _) -> list[Finding]:
    findings = []
    for file, paths in _groups((p.path for p in seen.pictures), seen.caption_file).items():
        names = listed([shown(path.name) for path in paths])
        what = f"{names} share the caption {shown(file.name)}, which can describe only one of them"
        findings += [Finding("caption shared", "error", path, what, "Rename one") for path in paths[1:]]
    return findings


def _duplicates(seen: Folder, _) -> list[Finding]:
    findings = []
    for first, *copies in _groups(seen.pictures, lambda picture: picture.digest).values():
        for copy in copies:
            what = f"{shown(copy.path.name)} is the same file as {shown(first.path.name)}"
            remedy = "Remove one, and set repeats if it shall count twice"
            findings.append(Finding("duplicate", "warning", copy.path, what, remedy))
    return findings


def _sizes(seen: Folder, resolution: int) -> list[Finding]:
    findings = []
    for picture in seen.pictures:
        placement = seen.placements[picture.path]
        name, size = shown(picture.path.name), f"{picture.width}×{picture.height}"
        if math.sqrt(picture.width * picture.height) < SMALL * resolution:
            what = f"{name} is {size} and would be enlarged {placement.scale:.1f} times"
            remedy = f"Use a larger version, upscale it, or train below {resolution}"
            findings.append(Finding("small", "warning", picture.path, what, remedy))
        if placement.lost > EXTREME_CROP:
            what = f"{name} ({size}) loses {100 * placement.lost:.0f} % to its {_by(placement.bucket)} bucket"
            remedy = "Crop it by hand around the subject, or allow longer buckets"
            findings.append(Finding("cropped", "warning", picture.path, what, remedy))
    return findings


def _peculiar(seen: Folder, _) -> list[Finding]:
    findings = []
    for picture in seen.pictures:
        name = shown(picture.path.name)
        if picture.frames > 1:
            what = f"{name} has {picture.frames} frames, and only the first is used"
            remedy = "Save the frames that matter as pictures"
            findings.append(Finding("animated", "hint", picture.path, what, remedy))
        if picture.has_alpha:
            what = f"{name} has transparent parts, which are trained as white"
            remedy = "Mention the white background in the caption, or put one in"
            findings.append(Finding("alpha", "hint", picture.path, what, remedy))
    return findings


def _encodings(seen: Folder, _) -> list[Finding]:
    by_encoding: dict[str, list[Path]] = defaultdict(list)
    for path, text in seen.texts.items():
        if text is not None:
            by_encoding[captions.encoding(seen.caption_file(path))].append(path)
    if len(by_encoding) < 2:
        return []
    numbers = listed([f"{len(paths)} in {name}" for name, paths in sorted(by_encoding.items())])
    what, remedy = (
        f"Captions are in several encodings ({numbers})",
        "All are read; other tools may want UTF-8",
    )
    return [Finding("encodings", "hint", None, what, remedy)]


def _orphans(seen: Folder, _) -> list[Finding]:
    owned = {seen.caption_file(file.path) for file in [*seen.pictures, *seen.broken]}
    lost = [path for path in images.files(seen.path, {seen.extension}) if path not in owned]
    remedy = "Rename it after its picture, or remove it"
    return [
        Finding("orphan", "hint", path, f"{shown(path.name)} belongs to no picture of that name", remedy)
        for path in lost
    ]


_CHECKS: tuple[Callable[[Folder, int], list[Finding]], ...] = (
    _broken,
    _foreign,
    _few,
    _captions,
    _shared_captions,
    _duplicates,
    _sizes,
    _peculiar,
    _encodings,
    _orphans,
)


def _groups(items, key) -> dict:
    """Those with equal keys, where there is more than one, in order."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return {value: members for value, members in groups.items() if len(members) > 1}


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
