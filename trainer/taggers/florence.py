"""Florence-2: a sentence, some sentences, or a paragraph.

Xiao et al. 2023 (arXiv 2311.06242), through transformers' own class: the hub's florence-community models have its
layout; the first releases, which bring code of their own, do not.
"""

from trainer.dataset.names import shown
from trainer.errors import UserError, nearest
from trainer.taggers.base import Tagger
from trainer.taggers.captioner import Captioner, folder_of, model_type

TASKS = {"short": "<CAPTION>", "detailed": "<DETAILED_CAPTION>", "paragraph": "<MORE_DETAILED_CAPTION>"}


def florence(where: str) -> Tagger:
    """Florence-2 (sentences): a folder of a transformers model or a hub id; `@short` or `@paragraph` for other lengths.

    Raises UserError, with the layout that is needed, when the model is not there or is no Florence-2.
    """
    place, _, task = where.partition("@")
    task = task or "detailed"
    if task not in TASKS:
        raise UserError(f"Unknown length '{task}' of Florence-2's captions: {nearest(task, TASKS)}")
    folder = folder_of(place, "florence-community/Florence-2-large")
    kind = model_type(folder)
    if kind != "florence2":
        raise UserError(f"{shown(folder)} holds a model of type '{kind}' and not florence2: take one of that kind.")
    return Captioner(folder, "Florence2ForConditionalGeneration", prompt=TASKS[task])
