"""Rows with LoRAs of their own in one forward pass, held against base weights with the change added in."""

import pytest
import tiny
import torch
from torch import nn

from trainer import kohya
from trainer.errors import UserError
from trainer.stack import Lora, Stack, stackable, trains_text


def write_lora(path, model, rank, seed, components=("unet", "text_encoder", "text_encoder_2")):
    """A strong LoRA on every linear and convolution of these components, 3×3 and strided ones included."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for component, root in model.modules().items():
        for at, module in root.named_modules() if component in components else ():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                name = model.family.kohya_name(component, at, model.unet)
                inner, tail = module.weight.shape[1:], (1, 1) * isinstance(module, nn.Conv2d)
                tensors[f"{name}.lora_down.weight"] = 0.2 * torch.randn(rank, *inner, generator=generator)
                up = 0.02 * torch.randn(module.weight.shape[0], rank, *tail, generator=generator)
                tensors[f"{name}.lora_up.weight"] = up
                tensors[f"{name}.alpha"] = torch.tensor(rank / 2)
    kohya.write(path, tensors, {})
    return path


def merged(model, loras, component):
    """The state of a component with the LoRAs added to its weights: what the rows are held against."""
    root = model.modules()[component]
    state = {key: value.clone() for key, value in root.state_dict().items()}
    for lora in loras:
        tensors = kohya.read(lora.path).tensors
        for at, module in root.named_modules():
            if not isinstance(module, (nn.Linear, nn.Conv2d)):
                continue
            name = model.family.kohya_name(component, at, model.unet)
            if f"{name}.alpha" in tensors:
                down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
                change = (up.flatten(1) @ down.flatten(1)).view_as(module.weight)
                weight = lora.unet if component == "unet" else lora.text_encoder
                state[f"{at}.weight"] += weight * change * tensors[f"{name}.alpha"] / len(down)
    return state


@torch.no_grad()
def test_each_row_carries_its_own(model, tmp_path):
    one, two = (write_lora(tmp_path / f"{rank}.safetensors", model, rank, rank) for rank in (2, 5))
    sets = [(Lora(one, 0.8, 1.0),), (), (Lora(one, 1.0, 1.0), Lora(two, -0.5, 0.3)), (Lora(two, 0.0, 1.0),)]
    inputs = tiny.inputs(model, batch=4)
    base = model.family.predict(model, *inputs)
    stack = Stack(model)
    stack.carry(sets)
    with stack.rows([0, 1, 2, 3]):
        together = model.family.predict(model, *inputs)
    assert torch.equal(together[1], base[1])  # a row that carries nothing is the base, bit for bit
    assert torch.equal(model.family.predict(model, *inputs), base)  # and so is everything outside
    own = model.unet.state_dict()
    own = {key: value.clone() for key, value in own.items()}
    for row in (0, 2, 3):
        with stack.rows([row]):
            alone = model.family.predict(model, *inputs)
        model.unet.load_state_dict(merged(model, sets[row], "unet"))
        wanted = model.family.predict(model, *inputs)
        model.unet.load_state_dict(own)
        assert torch.allclose(alone, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
        assert torch.allclose(together[row], wanted[row], rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(together[0], base[0], rtol=1e-2)
    stack.carry([()])
    with stack.rows([0]):
        assert torch.equal(model.family.predict(model, *inputs), base)


@torch.no_grad()
def test_text_encoders_have_their_own_weight(model, tmp_path):
    path = write_lora(tmp_path / "a.safetensors", model, 3, 1)
    lora = Lora(path, unet=1.0, text_encoder=0.5)
    stack = Stack(model)
    stack.carry([(lora,)])
    with stack.rows([0]):
        said = model.family.encode_captions(model, ["a cat"]).hidden
    for component in model.family.text_components:
        model.modules()[component].load_state_dict(merged(model, [lora], component))
    assert torch.allclose(said, model.family.encode_captions(model, ["a cat"]).hidden, rtol=1e-3, atol=1e-4)


def test_what_fits_and_what_can_be_stacked(model, tmp_path):
    path = write_lora(tmp_path / "unet.safetensors", model, 2, 1, components=("unet",))
    assert stackable(path) and not trains_text(path)
    tensors = kohya.read(path).tensors
    write_lora(path, model, 2, 1)  # the file of that name may become another one
    assert trains_text(path)
    name = next(iter(tensors)).partition(".")[0]
    kohya.write(tmp_path / "dora.safetensors", {**tensors, f"{name}.dora_scale": torch.ones(1)}, {})
    assert not stackable(tmp_path / "dora.safetensors")
    tensors[f"{name}.lora_up.weight"] = torch.zeros(3, 2, *tensors[f"{name}.lora_up.weight"].shape[2:])
    kohya.write(tmp_path / "other.safetensors", tensors, {})
    with pytest.raises(UserError, match=r"other\.safetensors does not fit the base"):
        Stack(model).carry([(Lora(tmp_path / "other.safetensors"),)])
    kohya.write(tmp_path / "alien.safetensors", {"lora_unet_x.lora_up.weight": torch.zeros(1, 1)}, {})
    with pytest.raises(UserError, match="no module"):
        Stack(model).carry([(Lora(tmp_path / "alien.safetensors"),)])


def test_a_file_without_any_module_changes_nothing(model, tmp_path):
    empty = kohya.write(tmp_path / "empty.safetensors", {}, {"ss_output_name": "empty"})
    inputs = tiny.inputs(model, batch=1)
    base, stack = model.family.predict(model, *inputs), Stack(model)
    stack.carry([(Lora(empty),)])
    with stack.rows([0]):
        assert torch.equal(model.family.predict(model, *inputs), base)
