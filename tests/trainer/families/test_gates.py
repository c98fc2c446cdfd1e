"""The feed-forward gate that keeps less: diffusers' answer and gradient to the last bit, and every base has it."""

from functools import partial

import pytest
import torch
from diffusers.models.activations import GEGLU

from trainer import families
from trainer.families.gates import LeanGEGLU, keep_less
from trainer.families.outline import outline


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_answer_and_gradient_from_fewer_numbers(dtype):
    torch.manual_seed(0)
    feed, x = GEGLU(8, 32).to(dtype).requires_grad_(False), torch.randn(2, 5, 8, dtype=dtype, requires_grad=True)
    found = []
    for _ in range(2):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(partial(note, kept), lambda tensor: tensor):
            answer = feed(x)
        numbers = sum(tensor.numel() for tensor in kept) - feed.proj.weight.numel()
        found.append((answer, torch.autograd.grad(answer.sin().sum(), x)[0], numbers))
        keep_less(feed)
    (theirs, their_gradient, they_keep), (ours, our_gradient, we_keep) = found
    assert torch.equal(ours, theirs) and torch.equal(our_gradient, their_gradient)
    assert we_keep == 2 * 5 * 64 < they_keep


def note(kept: list[torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    kept.append(tensor)
    return tensor


@pytest.mark.parametrize("base", ["toybox/sd15", "toybox/sdxl"])
def test_every_base_has_it_and_so_has_its_outline(base):
    for model in (families.load(base), outline(base, torch.float32)):
        gates = [module for module in model.unet.modules() if isinstance(module, GEGLU)]
        assert gates and all(type(gate) is LeanGEGLU for gate in gates)
