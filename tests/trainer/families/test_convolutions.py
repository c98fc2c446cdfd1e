"""Convolutions as matrix products: the same answers and gradients, taken where they pay."""

import pytest
import torch
from torch import nn

from trainer import families
from trainer.families.convolutions import ProductConv2d, as_products, product


def ways(conv: nn.Conv2d, x: torch.Tensor) -> tuple[str, list[torch.Tensor], list[torch.Tensor]]:
    """What its graph consists of, and answer and gradient its way and torch's own."""
    found = []
    for forward in (conv, lambda x: nn.Conv2d.forward(conv, x)):
        x = x.detach().requires_grad_()
        answer = forward(x)
        found.append((node_names(answer.grad_fn), [answer, torch.autograd.grad(answer.sin().sum(), x)[0]]))
    (way, ours), (_, theirs) = found
    return way, ours, theirs


def node_names(node) -> str:
    names, todo = [], [node]
    while todo:
        node = todo.pop()
        names.append(type(node).__name__)
        todo += [inner for inner, _ in node.next_functions if inner is not None]
    return " ".join(names)


@pytest.mark.parametrize("pictures", [1, 3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (1, 2, 0), (3, 1, (0, 2)), ((1, 3), 1, 0)]
)
def test_the_same_answers_and_gradients(pictures, bias, kernel, stride, padding):
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 500, kernel, stride, padding, bias=bias).double().requires_grad_(False)
    as_products(conv)
    way, ours, theirs = ways(conv, torch.randn(pictures, 6, 4, 5, dtype=torch.float64))
    assert "AddmmBackward0" in way or "MmBackward0" in way
    assert "Convolution" not in way
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv2d(6, 16, 3, padding=1), (1, 6, 4, 4)),  # more places than channels
        (nn.Conv2d(6, 600, 3, padding=1, groups=2), (1, 6, 4, 4)),
        (nn.Conv2d(6, 600, 3, padding=2, dilation=2), (1, 6, 4, 4)),
        (nn.Conv2d(6, 600, 3, padding=1, padding_mode="circular"), (1, 6, 4, 4)),
        (nn.Conv2d(6, 600, 3, padding="same"), (1, 6, 4, 4)),
    ],
)
def test_torchs_own_way_where_it_is_better_or_the_only_one(conv, shape):
    as_products(conv)
    way, ours, theirs = ways(conv, torch.randn(shape))
    assert "Convolution" in way
    assert torch.equal(ours[0], theirs[0])


def test_a_base_has_them_and_its_meta_twin_goes_torchs_way(folders):
    unet = families.load(str(folders["sd15"])).unet
    assert isinstance(unet.conv_in, ProductConv2d)
    assert unet.to("meta").conv_in(torch.empty(1, 4, 8, 8, device="meta")).device.type == "meta"


def test_one_product_for_all_pictures():
    matrix, columns, bias = torch.randn(5, 4), torch.randn(3, 4, 7), torch.randn(5)
    torch.testing.assert_close(product(matrix, columns), matrix @ columns)
    torch.testing.assert_close(product(matrix, columns, bias), matrix @ columns + bias[:, None])
