"""What is wrong between the settings and this base model: its size and how its tokenizer reads the words.

Like `checks`, one function a rule; apart from it because these must open the base (never its weights).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer import families
from trainer.checks import Problem, learning
from trainer.config import TrainConfig
from trainer.dataset import captions, wording
from trainer.dataset.names import listed
from trainer.examples import Example, trained
from trainer.families.folder import read_config
from trainer.families.tokens import Tokenizer, tokenizer

SHREDS = 4  # tokens of one word above which the text encoder sees letters rather than a word
COMMON = 0.4  # CLIP numbers its words by how often they occur; those in this first share mean something already
NAMED = 5  # files in one message


@dataclass(frozen=True)
class Base:
    """What these rules know of a base model."""

    family: families.Family
    resolution: int  # px that it was made for
    tokenizer: Tokenizer
    prediction_type: str = "epsilon"  # as its files say
    pure_noise: bool = False  # whether its noise levels end in pure noise


Rule = Callable[[TrainConfig, list[Example], Base], Iterator[Problem]]


def resolution_far_from_the_bases(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    asked = config.data.resolution
    if not 0.7 <= asked / base.resolution <= 1.6:
        what = "loses detail and composition" if asked < base.resolution else "doubles limbs and costs memory"
        reason = f"this {base.family.title} base was made for {base.resolution} px; training at {asked} {what}."
        yield Problem("data.resolution", "warning", reason, base.resolution)


def clip_skip_without_effect(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    if config.model.clip_skip > base.family.max_clip_skip:
        reason = f"{base.family.title} has a fixed rule for its text encoders: clip skip has no effect."
        yield Problem("model.clip_skip", "warning", reason, base.family.max_clip_skip)


def rate_of_a_missing_text_encoder(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    if config.optimizer.text_encoder_2_learning_rate >= 0 and "text_encoder_2" not in base.family.text_components:
        reason = f"{base.family.title} has one text encoder, so this rate has no effect."
        yield Problem("optimizer.text_encoder_2_learning_rate", "warning", reason, -1)


def captions_over_the_limit(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    limit = config.data.max_tokens
    if not limit:
        return
    lengths = {e.path.name: len(base.tokenizer.ids(wording.fullest(e.caption, config.data))) for e in trained(examples)}
    over = [f"{name} ({length})" for name, length in lengths.items() if length > limit]
    if over:
        more = [f"{len(over) - NAMED} more"] if len(over) > NAMED else []
        reason = f"more than {limit} tokens, and the rest is cut off: {listed(over[:NAMED] + more)}."
        enough = next((size for size in (75, 150, 225) if size >= max(lengths.values())), 0)
        yield Problem("data.max_tokens", "warning", reason, enough)


def trigger_that_is_no_name(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    words = " ".join(captions.split(config.data.trigger)).split()
    tokens = {word: base.tokenizer.ids(word) for word in words}
    for word, ids in tokens.items():
        if len(ids) > SHREDS:
            reason = f"the tokenizer cuts {word!r} into {len(ids)} pieces; a shorter word is learned more surely."
            yield Problem("data.trigger", "warning", reason)
    # Beside a rare word a common one is welcome: "ohwx woman".
    if tokens and all(len(ids) == 1 and ids[0] < COMMON * base.tokenizer.size for ids in tokens.values()):
        reason = (
            f"{config.data.trigger!r} is a common word of the base model: what it means there mixes with what is "
            "learned. Invent a word, or add one that is rare."
        )
        yield Problem("data.trigger", "warning", reason)


def pure_noise_that_teaches_nothing(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    """Min-SNR weighs a v-prediction by min(SNR, γ) / (SNR + 1), which is 0 where there is only noise."""
    if (config.loss.zero_terminal_snr or base.pure_noise) and config.loss.min_snr_gamma:
        reason = "this run ends in pure noise (zero terminal SNR), and min-SNR gives just that level the weight 0."
        yield Problem("loss.min_snr_gamma", "warning", reason, 0)


def prediction_unlike_the_bases(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    """That a file says v is a mark somebody has set; that it says nothing is no word against it."""
    if config.model.prediction == "epsilon" and base.prediction_type == "v_prediction":
        reason = "this base says that it predicts v: trained as one that predicts the noise, nothing good is learned."
        yield Problem("model.prediction", "warning", reason, "auto")


def loss_of_the_other_prediction(config: TrainConfig, examples: list[Example], base: Base) -> Iterator[Problem]:
    chosen = config.model.prediction
    return learning.loss_of_the_other_prediction(config.loss, base.prediction_type if chosen == "auto" else chosen)


RULES: list[Rule] = [
    resolution_far_from_the_bases,
    clip_skip_without_effect,
    rate_of_a_missing_text_encoder,
    captions_over_the_limit,
    trigger_that_is_no_name,
    pure_noise_that_teaches_nothing,
    prediction_unlike_the_bases,
    loss_of_the_other_prediction,
]


def check(config: TrainConfig, examples: list[Example]) -> list[Problem]:
    """Every problem of these settings and captions with their base. Raises UserError for a base that is none."""
    base = _look(config.model.base)
    return [problem for rule in RULES for problem in rule(config, examples, base)]


def _look(name: str) -> Base:
    source = families.resolve(name)
    family = families.detect(source)
    resolution = family.resolution
    if source.kind == "folder":
        # A diffusers folder says it: the side of the latents, 8 px each.
        resolution = 8 * (read_config(source.path / "unet" / "config.json").get("sample_size") or resolution // 8)
    noise = families.noise(source)
    prediction, pure_noise = noise.get("prediction_type", "epsilon"), bool(noise.get("rescale_betas_zero_snr"))
    return Base(family, resolution, tokenizer(name), prediction, pure_noise)
