"""The compare page frozen into one file that can be sent to a friend: opens from disk, fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.cells import Evaluation, Prompt, is_base
from trainer.files import write_text
from trainer.grid import Table, metric_label, summary
from trainer.metrics import METRICS, open_picture

TEMPLATE = Path(__file__).with_name("report.html")
WORDS = '<script type="application/json" id="words">'
NO_WORDS: dict[str, Any] = {"language": "en", "texts": {}}
# What `about` of an Evaluation may tell, and what it may say of scores.
ABOUT = (
    "Base model",
    "Trigger word",
    "Sampling",
    "LoRA",
    "Pictures",
    "Against",
    "Second base",
    "Embeddings not used",
    "Scores from",
    "Scores of {name}",
    "colours and outlines, without CLIP",
    "do not set one epoch apart",
)

MOST_BYTES = 28_000_000  # of pictures, so that the file stays below 30 MB
# How pictures are made smaller until all of them fit: (longest side in pixels, WebP quality; None is lossless).
# Lossless comes first: small drawn pictures show WebP's halved colour resolution at every outline.
LADDER = ((256, None), (4096, 90), (1024, 85), (768, 80), (512, 80), (384, 70), (256, 60), (128, 50))


def in_english(evaluation: Evaluation) -> Mapping[str, Any]:
    return NO_WORDS


# The words that a comparison's report is written in. The trainer speaks English; the studio puts its own here.
words: Callable[[Evaluation], Mapping[str, Any]] = in_english


def write_report(evaluation: Evaluation, folder: Path) -> Path:
    """Write report.html into the evaluation's folder; returns its path.

    Pictures that are not there yet are shown as "not rendered". They are stored as WebP, made smaller only
    as far as the file would otherwise exceed 30 MB; the PNGs beside it stay the originals.
    """
    page = render(_data(evaluation, Path(folder)), evaluation.title)
    return write_text(Path(folder) / "report.html", in_words(page, **words(evaluation)))


def pair_page(left: Path, right: Path) -> str:
    """Two pictures side by side for a blind vote: one file, no script, and nothing that tells who they are.

    The pictures are encoded anew, so that neither name nor infotext comes along. The page loads itself again
    every two seconds, since the next pair is written over it.
    """
    images = (open_picture(path) for path in (left, right))
    sides = (
        f'<figure><img alt="{name}" src="{_data_uri(image, 1536, None)}"><figcaption>{key}</figcaption></figure>'
        for name, key, image in zip(("left", "right"), "12", images)
        if image is not None
    )
    return PAIR.replace("{{pictures}}", "".join(sides))


PAIR = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="2"><title>Which is better?</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>body { margin: 1rem; display: flex; gap: 1rem; font: 1.2rem system-ui, sans-serif; text-align: center; }
figure { margin: 0; flex: 1; } img { max-width: 100%; max-height: 88vh; min-height: 40vh; object-fit: contain; }
figcaption { padding: .4rem; }</style>
<body>{{pictures}}</body></html>
"""


def render(data: dict[str, Any], title: str) -> str:
    """The page with its data filled in. No text from `data` can end the script or start another one."""
    page = TEMPLATE.read_text(encoding="utf-8")
    title = html.escape(title.encode("utf-8", "replace").decode())
    values = {"script-hash": _script_hash(page), "title": title, "words": _json(NO_WORDS), "data": _json(data)}
    # In one pass: nothing that a value holds is taken for a placeholder.
    return re.sub(r"{{([a-z-]+)}}", lambda placeholder: values[placeholder[1]], page)


def in_words(page: str, language: str, texts: Mapping[str, str]) -> str:
    """A report's text with its page in other words: `language` as HTML names it, and for each of the page's English
    texts what stands in its place."""
    before, tag, rest = page.partition(WORDS)
    _old, _tag, after = rest.partition("</script>")
    return f"{before}{tag}{_json({'language': language, 'texts': dict(texts)})}</script>{after}"


def own_texts() -> list[str]:
    """The English texts of every report's page, with {names} where something is filled in."""
    page, _script, script = TEMPLATE.read_text(encoding="utf-8").rpartition("<script>")
    reader = _Texts()
    reader.feed(page[page.index("<body>") :])
    said = [json.loads(f'"{text}"') for text in re.findall(r'\b_\("([^"]+)"', script)]
    return list(dict.fromkeys(text for text in [*reader.found, *said] if re.search("[a-z]{2}", text)))


def texts_about(evaluation: Evaluation) -> list[str]:
    """The English texts that come with a comparison's data: what is recommended and why, what scores mean."""
    table = Table(evaluation)
    metrics = [text for name in table.metrics() for key, text in _metric(name).items() if key not in ("name", "better")]
    reason = (evaluation.recommended or {}).get("reason", "")
    of_scores = [value for name, value in evaluation.about.items() if name.startswith("Scores ")]
    return [text for text in (reason, *summary(table), *evaluation.about, *of_scores, *metrics) if text]


class _Texts(HTMLParser):
    """What can be read in a piece of HTML, as text or read aloud."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("title", "aria-label") and value]

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None and data.strip():
            self.found.append(data.strip())


def is_current(page: str) -> bool:
    """Whether this text of a report has the viewer of this version."""
    return _script_hash(TEMPLATE.read_text(encoding="utf-8")) in page[:2000]


def _script_hash(page: str) -> str:
    """What the page's policy lets run, this one script and nothing else, should an escape ever be forgotten."""
    script = re.search(r"<script>(.*)</script>", page, re.DOTALL)[1]
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _json(value: Any) -> str:
    """JSON that can stand inside a <script> element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    # Half a surrogate pair can stand in a Python string, not in a file.
    return re.sub(r"[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)


def _data(evaluation: Evaluation, folder: Path) -> dict[str, Any]:
    table = Table(evaluation)
    files = list(dict.fromkeys(cell.file for cell in evaluation.cells))
    pictures, sizes = _pictures(folder, files)
    return {
        "title": evaluation.title,
        "summary": summary(table),
        "about": [[name, value] for name, value in evaluation.about.items() if value],
        "settings": evaluation.settings,
        "run": evaluation.run,
        "recommended": _recommended(evaluation),
        "chosen": _first_strength(evaluation),
        "strengths": evaluation.strengths,
        "epochs": evaluation.epochs,
        "labels": evaluation.labels,
        "prompts": [_prompt(table, prompt, sizes) for prompt in evaluation.prompts],
        "metrics": [_metric(name) for name in table.metrics()],
        "rows": _rows(table),
        "cells": _cells(evaluation, list(pictures)),
        "pictures": list(pictures.values()),
    }


def _recommended(evaluation: Evaluation) -> dict[str, Any] | None:
    best = evaluation.recommended
    if not best:
        return None
    return {"epoch": best["epoch"], "strength": _strength(evaluation, best.get("strength")), "reason": best["reason"]}


def _first_strength(evaluation: Evaluation) -> int:
    """The strength that is shown first: the recommended one, else the one nearest to 1."""
    chosen = _strength(evaluation, (evaluation.recommended or {}).get("strength"))
    if chosen >= 0 or not evaluation.strengths:
        return max(0, chosen)
    return min(range(len(evaluation.strengths)), key=lambda index: abs(evaluation.strengths[index] - 1))


def _strength(evaluation: Evaluation, strength: float | None) -> int:
    """A strength's place in the list, -1 when it is not there."""
    return next((i for i, known in enumerate(evaluation.strengths) if known == strength), -1)


def _prompt(table: Table, prompt: Prompt, sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    shown = [sizes[c.file] for c in table.evaluation.cells if c.column == prompt.name and c.file in sizes]
    width, height = shown[0] if shown else (prompt.width or 1, prompt.height or 1)
    texts = {"name": prompt.name, "prompt": prompt.prompt, "negative": prompt.negative, "leak": prompt.leak}
    return {**texts, "seeds": table.seeds(prompt), "width": width, "height": height}


def _metric(name: str) -> dict[str, str]:
    label, better = metric_label(name)
    known = METRICS.get(name)
    texts = {"meaning": known.meaning, "misleads": known.misleads} if known else {"meaning": "", "misleads": ""}
    return {"name": name, "label": label, "better": better, **texts}


def _rows(table: Table) -> list[dict[str, Any]]:
    rows = []
    for epoch in table.epochs:
        for index, strength in [(-1, 0.0)] if is_base(epoch) else enumerate(table.strengths):
            scores = {
                name: {"value": value, "share": round(table.share(name, value), 3)}
                for name, value in table.scores(epoch, strength).items()
            }
            rows.append({"epoch": epoch, "strength": index, "scores": scores})
    return rows


def _cells(evaluation: Evaluation, files: list[str]) -> list[dict[str, Any]]:
    columns = {prompt.name: index for index, prompt in enumerate(evaluation.prompts)}
    places = {file: index for index, file in enumerate(files)}
    return [
        {
            "prompt": columns[cell.column],
            "epoch": cell.epoch,
            "strength": -1 if is_base(cell.epoch) else _strength(evaluation, cell.strength),
            "seed": cell.seed,
            "picture": places.get(cell.file, -1),
            "infotext": cell.infotext,
            "scores": {n: v for n, v in cell.scores.items() if v is not None and math.isfinite(v)},
        }
        for cell in evaluation.cells
        if cell.column in columns
    ]


# Pictures


def _pictures(folder: Path, files: list[str]) -> tuple[dict[str, str], dict[str, tuple[int, int]]]:
    """Data URIs of all pictures that can be read, by file, at the best quality at which they fit; and their sizes."""
    sizes = {file: image.size for file in files if (image := open_picture(folder / file))}
    longest = max((max(size) for size in sizes.values()), default=0)
    ladder = [(side, quality) for side, quality in LADDER if quality is not None or longest <= side]
    for side, quality in ladder[:-1]:
        encoded = _encode_all(folder, list(sizes), side, quality, MOST_BYTES)
        if encoded is not None:
            return encoded, sizes
    return _encode_all(folder, list(sizes), *ladder[-1], math.inf), sizes


def _encode_all(folder: Path, files: list[str], side: int, quality: int | None, most: float) -> dict[str, str] | None:
    """Every picture as a data URI; None as soon as it is clear that they take more than `most` bytes."""
    encoded, used = {}, 0
    for count, file in enumerate(files, 1):
        # Opened again for each rung: a large comparison at full size would not fit into memory.
        encoded[file] = _data_uri(open_picture(folder / file), side, quality)
        used += len(encoded[file])
        if used > most or (count >= 16 and used / count * len(files) > 1.3 * most):
            return None
    return encoded


def _data_uri(image: Image.Image, side: int, quality: int | None) -> str:
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=quality is None, quality=quality or 80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
