"""The pictures of a folder as filters see them."""

from dataclasses import replace
from pathlib import Path

from trainer.dataset import formats, health, images, index, query
from trainer.dataset.query import Item


def select(folder: Path, where: str = "", format: str = "txt", *, trigger: str = "") -> list[Item]:
    """Those that the filter wants, in natural order, with their captions.

    Pictures are measured (from the index) only for a filter about sizes, and checked only for one about issues.
    Raises UserError for a filter or a caption that cannot be read, and when there is no picture.
    """
    folder = Path(folder)
    wanted = query.parse(where)
    paths = images.some(folder)
    texts = formats.read(folder, paths, format)
    items = [Item(path, texts[path]) for path in paths]
    if wanted.needs_sizes:
        sizes = {p.path: (p.width, p.height, p.bytes) for p in index.survey(folder)[0]}
        nothing = (0, 0, 0)  # a broken file has no size
        items = [replace(i, width=w, height=h, bytes=b) for i in items for w, h, b in [sizes.get(i.path, nothing)]]
    if wanted.needs_issues:
        issues: dict[Path, set[str]] = {}
        for finding in health.check(folder, trigger=trigger, format=format).findings:
            if finding.file is not None:
                issues.setdefault(finding.file, set()).add(finding.kind)
        items = [replace(item, issues=frozenset(issues.get(item.path, ()))) for item in items]
    return [item for item in items if wanted(item)]
