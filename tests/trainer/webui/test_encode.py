import pytest

torch = pytest.importorskip("torch")

from trainer.errors import UserError  # noqa: E402
from trainer.webui.chunking import chunks  # noqa: E402
from trainer.webui.encode import emphasize, encode, insert_embeddings, pad_to  # noqa: E402
from trainer.webui.prompt import attention  # noqa: E402


def tokenize(text):
    return [267 if word == "," else 100 + len(word) for word in text.replace(",", " , ").split()]


def states(count=1):
    return torch.randn(count, 77, 16, generator=torch.Generator().manual_seed(0)) + 0.5


def read(text, **options):
    return chunks(attention(text), tokenize, **options)


def test_original_weights_and_restores_the_mean():
    z = states()
    out = emphasize(z, read("aa (bb:1.5) cc"))
    assert out.mean().item() == pytest.approx(z.mean().item(), rel=1e-4)
    ratio = (out / z)[0].mean(-1)
    assert ratio[2] / ratio[1] == pytest.approx(1.5, rel=1e-4)
    assert ratio[3] == pytest.approx(ratio[1].item(), rel=1e-4)


def test_no_norm_only_weights():
    z = states()
    out = emphasize(z, read("aa (bb:-0.5) cc"), "No norm")
    assert torch.allclose(out[0, 2], z[0, 2] * -0.5)
    assert torch.allclose(out[0, 1], z[0, 1])


@pytest.mark.parametrize("mode", ["Ignore", "None"])
def test_ignored_weights_change_nothing(mode):
    assert torch.equal(emphasize(states(), read("aa (bb:1.5)"), mode), states())


def test_a_plain_prompt_is_not_touched():
    assert torch.allclose(emphasize(states(), read("aa bb")), states(), rtol=1e-5)


def test_half_precision_stays_half():
    assert emphasize(states().half(), read("(aa:1.2)")).dtype == torch.float16


def test_every_chunk_has_its_own_mean():
    parts = read("(aa:2) BREAK bb")
    together = emphasize(states(2), parts)
    alone = torch.cat([emphasize(states(2)[i : i + 1], parts[i : i + 1]) for i in range(2)])
    assert torch.equal(together, alone)


def test_an_unknown_mode_is_named():
    with pytest.raises(UserError, match="'No norm'"):
        emphasize(states(), read("a"), "No nrm")


def test_chunks_are_encoded_apart_and_joined():
    seen = []

    def encoder(ids, parts):
        seen.append(ids)
        return states(len(ids))

    out = encode(read(" ".join(["aa"] * 200)), encoder, mode="Ignore", pad=0)
    assert out.shape == (1, 231, 16)
    assert seen[0].shape == (3, 77)
    assert seen[0][2, -1] == 0
    assert torch.equal(out[0, 77:154], states(3)[1])


def test_embeddings_replace_their_places():
    (chunk,) = read("aa bbb cc", embeddings={"bbb": 2})
    inputs = torch.zeros(1, 77, 4)
    out = insert_embeddings(inputs, [chunk], {"bbb": torch.ones(2, 4)})
    assert out[0, :, 0].nonzero().flatten().tolist() == [2, 3]
    assert not inputs.any()


def test_branches_of_different_length():
    out = pad_to(states(), 154)
    assert out.shape == (1, 154, 16)
    assert torch.equal(out[0, 100], states()[0, 76])
