"""What can be measured on rendered pictures, without looking: one function per metric, listed in `METRICS`.

Pictures are compared as unit vectors, so that a dot product is a similarity. The vectors come from a local
CLIP model where there is one; without any weights they come from `describe`, a hand-made descriptor of
colours and outlines. It sees that a red round thing turned into a green square one, and knows nothing of
what either of them is: compare its values only within one evaluation, never between subjects.

A metric of one's own is a `Metric` that an installed package names under the entry points `lora_studio.metrics`, for
example a likeness of faces:

    [project.entry-points."lora_studio.metrics"]
    face = "my_package:FACE"

    FACE = Metric("Face", "How similar …", "…", "higher", of_picture=face)

    def face(pictures, cell):        # None where there is nothing to measure
        return mean_cosine(embed(pictures.image(cell)), [embed(one) for one in pictures.training_images()])

It is measured, shown, charted and explained like those that are here. The module is imported wherever scores are
listed, so it must import what is heavy inside the function.
"""

from trainer.metrics.models import Aesthetic, Clip, Dino
from trainer.metrics.pictures import Losses, Pictures, describe, open_picture, plain_words, tone
from trainer.metrics.plugins import plugged_in
from trainer.metrics.scoring import score
from trainer.metrics.table import METRICS, Metric

__all__ = [
    "METRICS",
    "Aesthetic",
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

# Here, where the names above are there for them to import; what is ours stays ours.
METRICS |= {name: metric for name, metric in plugged_in().items() if name not in METRICS}
