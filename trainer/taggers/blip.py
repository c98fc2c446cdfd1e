"""BLIP and BLIP-2: one plain sentence a picture.

Li et al. 2022 (arXiv 2201.12086) and 2023 (2301.12597), through transformers.
"""

from trainer.dataset.names import shown
from trainer.errors import UserError
from trainer.taggers.base import Tagger
from trainer.taggers.captioner import Captioner, folder_of, model_type

MODELS = {"blip": "BlipForConditionalGeneration", "blip-2": "Blip2ForConditionalGeneration"}


def blip(where: str) -> Tagger:
    """BLIP or BLIP-2 (one plain sentence): a folder of a transformers model, or a hub id.

    Raises UserError, with the layout that is needed, when the model is not there or is no BLIP.
    """
    folder = folder_of(where, "Salesforce/blip-image-captioning-large or Salesforce/blip2-opt-2.7b")
    kind = model_type(folder)
    if kind not in MODELS:
        raise UserError(f"{shown(folder)} holds a model of type '{kind}' and not blip or blip-2: take one of those.")
    return Captioner(folder, MODELS[kind])
