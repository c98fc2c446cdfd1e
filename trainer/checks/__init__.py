"""What is wrong with a configuration before anything runs: one function a rule, each naming setting and remedy."""

from __future__ import annotations

from trainer.checks import learning, network, pictures
from trainer.checks.problem import Problem, Rule
from trainer.config import TrainConfig
from trainer.errors import UserError
from trainer.examples import Example

RULES: list[Rule] = [
    pictures.few_pictures,
    pictures.unusual_length,
    pictures.captions_never_seen,
    pictures.braces_that_stay_text,
    pictures.masks_without_effect,
    pictures.one_version_of_each,
    pictures.more_regularisation_than_pictures,
    network.alpha_above_rank,
    network.block_alpha_above_rank,
    network.unused_by_this_kind,
    network.unreadable_blocks,
    network.full_bf16_without_bf16,
    network.attention_that_is_not_there,
    network.missing_base,
    network.missing_start,
    learning.average_of_averages,
    learning.learning_rate_of_one,
    learning.unknown_optimizer,
    learning.unreadable_optimizer_arguments,
    learning.unknown_schedule,
    learning.schedule_beside_averaging,
    learning.warm_up_to_the_end,
    learning.empty_timestep_range,
    learning.two_weightings,
    pictures.bucket_bounds,
    pictures.batch_larger_than_bucket,
    pictures.missing_captions,
    pictures.large_crops,
    pictures.renderings,
]


def check(config: TrainConfig, examples: list[Example]) -> list[Problem]:
    """Every problem of this configuration with these pictures, errors first."""
    problems = [problem for rule in RULES for problem in rule(config, examples)]
    return sorted(problems, key=lambda problem: problem.severity)


def require(problems: list[Problem]) -> None:
    """Raise UserError with the first problem that keeps the run from starting, if there is one."""
    for problem in problems:
        if problem.severity == "error":
            raise UserError(str(problem))
