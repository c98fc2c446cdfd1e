"""Original names of modules, judged by diffusers' own converters and by names known from published files."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from diffusers.loaders import single_file_utils

from trainer.families import FAMILIES, layout, shapes


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_turns_the_unet_back(family, layers):
    unet = tiny.unet(family, layers=layers)
    blocks = layout.Blocks.of(unet)
    original = {f"model.diffusion_model.{layout.unet_name(key, blocks)}": w for key, w in unet.state_dict().items()}
    assert_same(single_file_utils.convert_ldm_unet_checkpoint(original, dict(unet.config)), unet.state_dict())


def test_diffusers_turns_the_vae_back():
    vae = tiny.vae("sd15")
    original = {}
    for key, weight in vae.state_dict().items():
        square = ".mid_block.attentions." in key and weight.ndim == 2
        original[f"first_stage_model.{layout.vae_name(key, 4)}"] = weight[:, :, None, None] if square else weight
    assert_same(single_file_utils.convert_ldm_vae_checkpoint(original, dict(vae.config)), vae.state_dict())


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("down_blocks.1.attentions.0.proj_in", "lora_unet_input_blocks_4_1_proj_in"),
        (
            "down_blocks.2.attentions.1.transformer_blocks.9.ff.net.0.proj",
            "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.3.attn2.to_out.0",
            "lora_unet_middle_block_1_transformer_blocks_3_attn2_to_out_0",
        ),
        ("up_blocks.1.attentions.2.proj_out", "lora_unet_output_blocks_5_1_proj_out"),
        ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
        ("down_blocks.0.resnets.1.conv2", "lora_unet_input_blocks_2_0_out_layers_3"),
        ("mid_block.resnets.1.time_emb_proj", "lora_unet_middle_block_2_emb_layers_1"),
        ("up_blocks.2.resnets.0.conv_shortcut", "lora_unet_output_blocks_6_0_skip_connection"),
    ],
)
def test_sdxl_names_its_blocks_as_the_original_code_does(path, name):
    assert FAMILIES["sdxl"].kohya_name("unet", path) == name


def test_text_encoder_names_do_not_depend_on_the_version_of_transformers():
    for path in ("encoder.layers.3.mlp.fc1", "text_model.encoder.layers.3.mlp.fc1"):
        assert FAMILIES["sd15"].kohya_name("text_encoder", path) == "lora_te_text_model_encoder_layers_3_mlp_fc1"
        assert FAMILIES["sdxl"].kohya_name("text_encoder_2", path) == "lora_te2_text_model_encoder_layers_3_mlp_fc1"


def test_sd15_keeps_diffusers_names():
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    expected = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    assert FAMILIES["sd15"].kohya_name("unet", path) == expected


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_published_unets_are_read_off_their_shapes(family):
    """Built from nothing but names and shapes, the UNet has the same weights and as many heads everywhere."""
    from accelerate import init_empty_weights
    from diffusers import UNet2DConditionModel

    unet = tiny.full_size(family).unet
    blocks = layout.Blocks.of(unet)
    assert blocks == (layout.SD15 if family == "sd15" else layout.SDXL)
    found = {layout.unet_name(key, blocks): tuple(weight.shape) for key, weight in unet.state_dict().items()}
    config = shapes.unet_config(found | {shapes.POOLED: (1280, 1280)}, FAMILIES[family])
    with init_empty_weights():
        rebuilt = UNet2DConditionModel(**config)
    assert described(rebuilt) == described(unet)
    assert config.get("addition_time_embed_dim", 256) == 256


def described(unet):
    heads = {path: part.heads for path, part in unet.named_modules() if hasattr(part, "heads")}
    return {key: tuple(weight.shape) for key, weight in unet.state_dict().items()}, heads


def test_the_published_text_encoders_are_read_off_their_shapes():
    first, second = tiny.full_size("sdxl").text_encoders
    tokenizer = SimpleNamespace(bos_token_id=49406, eos_token_id=49407, pad_token_id=49407)
    found = {key.removeprefix("text_model."): tuple(weight.shape) for key, weight in first.state_dict().items()}
    config = shapes.clip_config(found, tokenizer)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (768, 12, 12)
    assert (config.intermediate_size, config.hidden_act, config.vocab_size) == (3072, "quick_gelu", 49408)
    found = {key: tuple(weight.shape) for key, weight in tiny.open_clip(second).items()}
    config = shapes.open_clip_config(found, tokenizer)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1280, 32, 20)
    assert (config.intermediate_size, config.hidden_act, config.projection_dim) == (5120, "gelu", 1280)
