"""What is worth a look in a folder of pictures and captions: one function a question, all of them in QUESTIONS.

Each takes (folder, training resolution) and gives findings; none changes anything. `fixes.py` has what can be done.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

from trainer.dataset import buckets, captions, duplicates, images, tags
from trainer.dataset.faces import Face
from trainer.dataset.formats import SIDECARS
from trainer.dataset.images import Picture
from trainer.dataset.names import count, listed, shown

Severity = Literal["error", "warning", "hint"]
"""error: training refuses or goes wrong; warning: the LoRA suffers; hint: worth knowing."""

EXTREME_CROP = 0.20
"""Share of a picture lost to its bucket from which it is worth a look."""

SMALL = 0.75
"""Below this share of the training resolution (by the square root of its area) enlarging visibly blurs."""

BLURRY = 0.12
"""Sharpness below which a picture is out of focus even at the size it is trained at; see `measure.Looks`."""

EXTREME = 4.0
"""Longer over shorter side; buckets from half to twice the resolution reach as far as this."""

LONG = 75
"""CLIP tokens in one chunk; kohya's default for `max_token_length`."""

ODD = 4.0
"""Times the usual distance from the folder's middle colours."""

SMALL_FACE = 64
"""px of a face as it is trained: eight latents, of which two are left for an eye."""

ALWAYS = 0.8
"""Share of the captions from which a tag that does not describe the character is learned along with it."""


@dataclass(frozen=True, slots=True)
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
    format: str
    """Where captions are kept, key of FORMATS."""
    placements: Mapping[Path, buckets.Placement]
    faces: Mapping[Path, Sequence[Face]] = field(default_factory=dict)
    """Picture -> its faces, the largest first; empty where nobody looked."""

    @property
    def sidecars(self) -> str | None:
        """Ending of the caption files; None when one file holds the captions of all."""
        return SIDECARS.get(self.format)

    def caption_file(self, picture: Path) -> Path:
        return captions.sidecar(picture, self.sidecars or captions.EXTENSION)


def _broken(seen: Folder, _) -> list[Finding]:
    remedy = "Repair or remove it; training refuses a folder with broken pictures"
    return [Finding("broken", "error", b.path, str(b), remedy) for b in seen.broken]


def _foreign(seen: Folder, _) -> list[Finding]:
    findings = []
    for path in images.foreign(seen.path):
        what = f"{shown(path.name)} is not used, {path.suffix.lower()} cannot be read"
        remedy = "Convert it to PNG or JPEG, or move it away"
        if path.suffix.lower() in images.VIDEO_ENDINGS:
            what = f"{shown(path.name)} is a video, of which nothing is used"
            remedy = "Take frames out of it with `lora-studio dataset frames`, or move it away"
        findings.append(Finding("foreign", "warning", path, what, remedy))
    return findings


def _few(seen: Folder, _) -> list[Finding]:
    number = len(seen.pictures)
    if number >= 8:
        return []
    what = f"{count(number, 'picture')} may be too few: poses and backgrounds are learned along with the subject"
    remedy = "Add pictures in other poses, places and light, 15 to 30 in all"
    return [Finding("few pictures", "hint", None, what, remedy)]


def _captions(seen: Folder, _) -> list[Finding]:
    findings = [
        Finding("caption unreadable", "error", path, what.rstrip("."), "Then check the folder again")
        for path, what in seen.unreadable.items()
    ]
    for path, text in seen.texts.items():
        name = shown(path.name)
        if text is None:
            remedy = f"Tag the folder, or write {shown(seen.caption_file(path).name) if seen.sidecars else 'one'}"
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
    findings: list[Finding] = []
    if not seen.sidecars:
        return findings
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


def _near_duplicates(seen: Folder, _) -> list[Finding]:
    findings = []
    for group in duplicates.grouped(seen.pictures):
        keep = duplicates.best(group)
        for picture in group:
            if picture is not keep and picture.digest != keep.digest:
                what = f"{shown(picture.path.name)} shows the same as {shown(keep.path.name)}"
                remedy = "Keep the better one; what is shown twice is learned twice as hard"
                findings.append(Finding("near duplicate", "warning", picture.path, what, remedy))
    return findings


def _looks(seen: Folder, _) -> list[Finding]:
    findings = []
    for picture in seen.pictures:
        name = shown(picture.path.name)
        if 0 < picture.looks.sharpness < BLURRY:
            what = f"{name} is out of focus (sharpness {picture.looks.sharpness:.2f}, sharp ones have 0.5 and more)"
            remedy = "Take it out, unless blur is what the LoRA shall learn"
            findings.append(Finding("blurry", "warning", picture.path, what, remedy))
        if picture.turned:
            what = f"{name} is stored turned or mirrored, and only its EXIF data say how to show it"
            remedy = "It is trained upright here; save it upright for tools that ignore that"
            findings.append(Finding("turned", "hint", picture.path, what, remedy))
    return findings


def _colours(seen: Folder, _) -> list[Finding]:
    """Pictures whose mean colour lies far from the others': a stray monochrome scan among photographs."""
    pictures = [picture for picture in seen.pictures if picture.looks.colours]
    if len(pictures) < 12:
        return []
    means = [[sum(p.looks.colours[c::3]) / 16 for c in range(3)] for p in pictures]
    middle = [median(mean[c] for mean in means) for c in range(3)]
    distances = [math.dist(mean, middle) for mean in means]
    usual = max(median(distances), 8.0)
    findings = []
    for picture, distance in zip(pictures, distances):
        if distance > ODD * usual:
            what = (
                f"The colours of {shown(picture.path.name)} are {distance / usual:.0f} times as far off as usual here"
            )
            remedy = "Check that it belongs to the others"
            findings.append(Finding("odd colours", "hint", picture.path, what, remedy))
    return findings


def _wording(seen: Folder, _) -> list[Finding]:
    """Captions that are long, or the same for pictures that are not."""
    findings, by_text = [], defaultdict(list)
    for path, text in seen.texts.items():
        tokens = tags.count_tokens(text or "")
        if tokens > LONG:
            what = f"The caption of {shown(path.name)} has {tokens} tokens or more, and one chunk takes {LONG}"
            remedy = "Take out what says nothing new, or train with longer chunks"
            findings.append(Finding("long caption", "hint", path, what, remedy))
        if len(captions.split(captions.remove(text or "", captions.split(seen.trigger)))) > 2:
            by_text[text].append(path)
    for first, *others in by_text.values():
        for path in others:
            what = f"The caption of {shown(path.name)} is word for word that of {shown(first.name)}"
            remedy = "Say what is different in each"
            findings.append(Finding("repeated caption", "hint", path, what, remedy))
    return findings


def _balance(seen: Folder, _) -> list[Finding]:
    """A pose, place or piece of clothing in nearly every caption becomes part of the character."""
    texts = [text for text in seen.texts.values() if text]
    if len(texts) < 10:
        return []
    constant = {captions.same(trait.tag) for trait in tags.traits(texts)} | set(
        map(captions.same, captions.split(seen.trigger))
    )
    first = {captions.same(captions.split(text)[0]) for text in texts if captions.split(text)}
    constant |= first if len(first) == 1 else set()  # the trigger, even when no one named it
    findings = []
    for tag, number in tags.frequencies(texts).items():
        if number < ALWAYS * len(texts):
            break
        if captions.same(tag) not in constant and len(tag.split()) < 7:
            what = f"'{tag}' is in {number} of {count(len(texts), 'caption')}, so it is learned along with the subject"
            remedy = "Add pictures without it, or repeat those that have none of it more often"
            findings.append(Finding("unbalanced", "hint", None, what, remedy))
    return findings


def _sizes(seen: Folder, resolution: int) -> list[Finding]:
    findings = []
    for picture in seen.pictures:
        placement = seen.placements[picture.path]
        name, size = shown(picture.path.name), f"{picture.width}×{picture.height}"
        if math.sqrt(picture.width * picture.height) < SMALL * resolution:
            what = f"{name} is {size} and would be enlarged {placement.scale:.1f} times"
            remedy = f"Use a larger version, enlarge it with `dataset prepare --upscaler`, or train below {resolution}"
            findings.append(Finding("small", "warning", picture.path, what, remedy))
        ratio = max(picture.width, picture.height) / min(picture.width, picture.height)
        if ratio > EXTREME:
            what = f"{name} ({size}) is {ratio:.1f} times as long as wide, and no bucket is longer than {EXTREME:g}"
            remedy = "Crop it around the subject, or cut it into several pictures"
            findings.append(Finding("extreme", "warning", picture.path, what, remedy))
        elif placement.lost > EXTREME_CROP:
            what = f"{name} ({size}) loses {100 * placement.lost:.0f} % to its {_by(placement.bucket)} bucket"
            remedy = "Crop it by hand around the subject, or allow longer buckets"
            findings.append(Finding("cropped", "warning", picture.path, what, remedy))
    return findings


def _faces(seen: Folder, _) -> list[Finding]:
    """Pictures whose largest face is too small once the picture is in its bucket."""
    findings = []
    for path, faces in seen.faces.items():
        side = faces[0].side * seen.placements[path].scale if faces else SMALL_FACE
        if side < SMALL_FACE:
            what = f"The face in {shown(path.name)} is {side:.0f} pixels large when it is trained"
            remedy = f"Crop it closer; below {SMALL_FACE} pixels eyes and mouth are lost"
            findings.append(Finding("small face", "warning", path, what, remedy))
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
    """Captions that are not UTF-8 among others that are."""
    if not seen.sidecars:
        return []
    found = {p: captions.encoding(seen.caption_file(p)) for p, text in seen.texts.items() if text is not None}
    if len(set(found.values())) < 2:
        return []
    remedy = "It is read here; save it as UTF-8 for other tools"
    return [
        Finding("encodings", "hint", path, f"The caption of {shown(path.name)} is {name.upper()}", remedy)
        for path, name in found.items()
        if name != "utf-8"
    ]


def _orphans(seen: Folder, _) -> list[Finding]:
    owned = {str(seen.caption_file(file.path)) for file in [*seen.pictures, *seen.broken]}
    there = sorted(images.stamps(seen.path, {seen.sidecars})) if seen.sidecars else []
    lost = [Path(name) for name in there if name not in owned]
    remedy = "Rename it after its picture, or remove it"
    return [
        Finding("orphan", "hint", path, f"{shown(path.name)} belongs to no picture of that name", remedy)
        for path in lost
    ]


QUESTIONS: tuple[Callable[[Folder, int], list[Finding]], ...] = (
    _broken,
    _foreign,
    _few,
    _captions,
    _shared_captions,
    _wording,
    _balance,
    _duplicates,
    _near_duplicates,
    _sizes,
    _faces,
    _looks,
    _colours,
    _peculiar,
    _encodings,
    _orphans,
)

OF_CAPTIONS = frozenset((_captions, _shared_captions, _wording, _balance, _encodings, _orphans))
"""The questions whose answers change with the captions; those of the others change with the pictures alone."""


def _groups(items, key) -> dict:
    """Those with equal keys, where there is more than one, in order."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return {value: members for value, members in groups.items() if len(members) > 1}


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
