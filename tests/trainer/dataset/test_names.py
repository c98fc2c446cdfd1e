"""How names and numbers stand in sentences."""

import pytest

from trainer.dataset.names import count


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "picture", "1 picture"),
        (0, "picture", "0 pictures"),
        (2, "batch", "2 batches"),
        (1, "epoch", "1 epoch"),
        (10, "epoch", "10 epochs"),
    ],
)
def test_a_number_of_things(number, noun, said):
    assert count(number, noun) == said
