"""What can be measured on rendered pictures, without looking: one function per metric, listed in `METRICS`.

Pictures are compared as unit vectors, so that a dot product is a similarity. The vectors come from a local
CLIP model where there is one; without any weights they come from `describe`, a hand-made descriptor of
colours and outlines. It sees that a red round thing turned into a green square one, and knows nothing of
what either of them is: compare its values only within one evaluation, never between subjects.
"""

from trainer.metrics.models import Clip, Dino
from trainer.metrics.pictures import Losses, Pictures, describe, open_picture, plain_words, tone
from trainer.metrics.scoring import score
from trainer.metrics.table import METRICS, Metric

__all__ = [
    "METRICS",
    "Clip",
    "Dino",
    "Losses",
    "Metric",
    "Pictures",
    "describe",
    "open_picture",
    "plain_words",
    "score",
    "tone",
]
