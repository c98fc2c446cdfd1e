"""What the text encoders are given in training: every token, or as many as asked for, from the asked-for layer."""

import pytest
import torch

from trainer import presets
from trainer.encoding import CaptionEncoder

LONG = "moss, " + "abcdefghij " * 12  # the tiny tokenizer has a token a letter


def encoder(model, tmp_path, caption=LONG, **settings) -> CaptionEncoder:
    from pathlib import Path

    from trainer.dataset import buckets
    from trainer.examples import Example

    usual = {"adapter.text_encoder": False, "data.shuffle_tags": False}
    config = presets.layer(usual | {key.replace("__", "."): value for key, value in settings.items()})
    example = Example(Path("0.png"), "0", caption, 64, 64, 1, buckets.place(64, 64, [(64, 64)]))
    return CaptionEncoder(model, config, [example], tmp_path / "cache", model.device)


def by_hand(model, text: str, tokens: int) -> torch.Tensor:
    """sd-scripts' way: start, the tokens of all chunks, end; each chunk through the encoder by itself."""
    parts = []
    for tokenizer, module in zip(model.tokenizers, model.text_encoders):
        ids = tokenizer(text, add_special_tokens=False).input_ids[:tokens]
        states = []
        for start in range(0, tokens, 75):
            row = [tokenizer.bos_token_id, *ids[start : start + 75], tokenizer.eos_token_id]
            row = torch.tensor([row + [tokenizer.pad_token_id] * (77 - len(row))])
            output = module(row, output_hidden_states=True)
            states.append(output.hidden_states[-2] if model.family.name == "sdxl" else output.last_hidden_state)
        parts.append(torch.cat([states[0][:, :1], *(state[:, 1:76] for state in states), states[-1][:, 76:]], dim=1))
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("tokens", [75, 150, 225])
def test_a_limit_cuts_and_joins_as_kohya_does(tokens, cached, model, tmp_path):
    encode = encoder(model, tmp_path, data__max_tokens=tokens, data__shuffle_tags=not cached)
    assert encode.is_cached is cached
    hidden = encode([LONG, ""]).hidden
    assert hidden.shape[:2] == (2, tokens + 2)
    with torch.no_grad():
        assert torch.allclose(hidden[:1], by_hand(model, LONG, tokens), atol=1e-5)


def test_without_a_limit_every_token_is_read(model, tmp_path):
    hidden = encoder(model, tmp_path)([LONG]).hidden
    assert hidden.shape[1] == 2 * 77
    # An order that needs more than the text as written is not cut off either.
    assert encoder(model, tmp_path, data__shuffle_tags=True)([LONG * 3]).hidden.shape[1] == 5 * 77


def test_the_cache_knows_how_chunks_are_joined(model, tmp_path):
    assert encoder(model, tmp_path, data__max_tokens=150)([LONG]).hidden.shape[1] == 152
    assert encoder(model, tmp_path)([LONG]).hidden.shape[1] == 154
    assert encoder(model, tmp_path, data__max_tokens=150)([LONG]).hidden.shape[1] == 152


def test_the_cached_words_are_those_of_the_step(model, tmp_path):
    """With a separator or a prefix the words trained are not those in the file."""
    encode = encoder(model, tmp_path, "moss ||| hat", data__caption_prefix="photo of")
    assert encode.is_cached
    assert torch.allclose(encode(["photo of moss, hat"]).hidden, model.family.encode_captions(
        model, ["photo of moss, hat"]
    ).hidden, atol=1e-5)  # fmt: skip


@pytest.mark.parametrize("cached", [True, False])
def test_clip_skip_is_obeyed(cached, model, tmp_path):
    one, two = (
        encoder(model, tmp_path, "moss", model__clip_skip=skip, data__shuffle_tags=not cached)(["moss"]).hidden
        for skip in (1, 2)
    )
    assert torch.equal(one, two) is (model.family.name == "sdxl")  # SDXL has its own fixed rule


def test_changing_captions_are_encoded_ahead_and_heard_alike(model, tmp_path):
    """Batch for batch what encoding in the step would say, to the last bit; of all others nothing is kept."""
    encode = encoder(model, tmp_path, data__shuffle_tags=True)
    batches = [["moss, hat", "moss, red hat"], ["hat, moss", ""]]
    in_step = [encode(texts) for texts in batches]
    encode.prepare(batches)
    asked = count_calls(model.text_encoders)
    for texts, wanted in zip(batches, in_step):
        assert all(torch.equal(value, wanted.tensors()[name]) for name, value in encode(texts).tensors().items())
    assert not asked
    encode.prepare([["red hat, moss"]])
    asked.clear()
    encode(batches[0])
    assert asked


def test_a_caption_that_is_kept_is_encoded_once_for_all_runs(model, tmp_path):
    encode = encoder(model, tmp_path, data__shuffle_tags=True)
    wanted = encode(["moss, hat"])
    encode.keep(["moss, hat"])
    again = encoder(model, tmp_path, data__shuffle_tags=True)
    asked = count_calls(model.text_encoders)
    again.keep(["moss, hat"])
    for kept in (encode, again):
        assert torch.equal(kept(["moss, hat"]).hidden, wanted.hidden) and not asked


def test_frozen_text_encoders_leave_the_device_between(model, tmp_path):
    """Where they are is told by their moves: a processor is the only device there is here."""
    encode = encoder(model, tmp_path, data__shuffle_tags=True)
    moves = []
    for module in model.text_encoders:
        module.to = lambda device, module=module: moves.append(str(device)) or module
    encode.prepare([["moss"]])
    assert moves == [str(model.device)] * len(model.text_encoders) + ["cpu"] * len(model.text_encoders)


def count_calls(modules: list[torch.nn.Module]) -> list:
    asked: list = []
    for module in modules:
        module.register_forward_hook(lambda *_: asked.append(1))
    return asked
