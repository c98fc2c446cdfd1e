"""Settings: what counts as an error."""

from __future__ import annotations

from typing import Literal

from trainer.config.declare import Part, setting


class LossConfig(Part):
    """What counts as an error."""

    min_snr_gamma: float = setting(
        5.0,
        ge=0,
        le=100,
        label="Min-SNR gamma",
        help="Evens out easy and hard noise levels, so training is steadier and faster. 5 is the paper's value, 0 off.",
        kohya="min_snr_gamma",
    )
    kind: Literal["l2", "l1", "huber", "smooth_l1"] = setting(
        "l2",
        label="Loss",
        help="l2 is the usual one. huber and smooth_l1 care less about single large errors, which helps with pictures "
        "of mixed quality; l1 still less.",
        kohya="loss_type",
    )
    huber_c: float = setting(
        0.1,
        gt=0,
        le=10,
        label="Huber threshold",
        help="For huber and smooth_l1: errors above about this size count less. Smaller is more forgiving.",
        kohya="huber_c",
    )
    huber_schedule: Literal["snr", "exponential", "constant"] = setting(
        "snr",
        label="Huber schedule",
        help="For huber and smooth_l1: snr and exponential forgive more where there is more noise, constant nowhere.",
        kohya="huber_schedule",
    )
    debiased: bool = setting(
        False,
        label="Debiased estimation",
        help="Weighs the noisiest levels up, where shapes are decided. Another way than min-SNR: use one of the two.",
        kohya="debiased_estimation_loss",
    )
    v_prediction_like: float = setting(
        0.0,
        ge=0,
        le=10,
        label="v-prediction-like loss",
        help="Adds this much of the weight that a v-prediction model would give to each noise level. Only for bases "
        "that predict noise. 0 is off.",
        kohya="v_pred_like_loss",
    )
    noise_prediction_like: bool = setting(
        False,
        label="Noise-prediction-like loss",
        help="Gives each noise level the weight that a noise-predicting model would give it. Only for v-prediction "
        "bases, without min-SNR.",
        kohya="scale_v_pred_loss_like_noise_pred",
    )
    p2_gamma: float = setting(
        0.0,
        ge=0,
        le=10,
        label="P2 gamma",
        help="Weighs the nearly clean noise levels down, so that content counts more than fine grain. 1 is the paper's "
        "value, 0 off.",
    )
    p2_k: float = setting(
        1.0,
        gt=0,
        le=100,
        label="P2 k",
        help="For P2: keeps the weight of the noisiest levels from running away; 1 is the paper's value.",
    )
    noise_offset: float = setting(
        0.0,
        ge=0,
        le=1,
        label="Noise offset",
        help="Lets the LoRA learn very dark and very bright pictures. 0.03 to 0.1 where it is wanted, 0 off.",
        kohya="noise_offset",
    )
    multires_iterations: int = setting(
        0,
        ge=0,
        le=64,
        label="Pyramid noise",
        help="Adds noise of this many coarser sizes, another way to dark and bright pictures. 6 to 10, 0 off.",
        kohya="multires_noise_iterations",
    )
    multires_discount: float = setting(
        0.3,
        gt=0,
        le=1,
        label="Pyramid discount",
        help="For pyramid noise: how much weaker each coarser size is. 0.1 to 0.3 with few pictures, 0.8 with many.",
        kohya="multires_noise_discount",
    )
    input_perturbation: float = setting(
        0.0,
        ge=0,
        le=1,
        label="Input perturbation",
        help="Adds noise that the model is not asked to find, against overfitting. The paper has 0.1, 0 is off.",
        kohya="ip_noise_gamma",
    )
    min_timestep: int = setting(
        0,
        ge=0,
        le=999,
        label="First time step",
        help="Trains noise levels from this one on; 0 is an almost clean picture. Higher leaves fine texture alone.",
        kohya="min_timestep",
    )
    max_timestep: int = setting(
        1000,
        ge=1,
        le=1000,
        label="Last time step",
        help="Trains noise levels below this one; 1000 is pure noise. Lower leaves composition alone.",
        kohya="max_timestep",
    )
    zero_terminal_snr: bool = setting(
        False,
        label="Zero terminal SNR",
        help="Lets the last noise level be pure noise. Only for v-prediction bases that were made that way.",
        kohya="zero_terminal_snr",
    )
    prior_weight: float = setting(
        1.0,
        ge=0,
        le=10,
        label="Weight of regularisation",
        help="How much a regularisation picture counts beside one of yours. Lower when the likeness suffers.",
        kohya="prior_loss_weight",
    )
    mask_normalised: bool = setting(
        False,
        label="Masked by area",
        help="With masks: a picture whose mask is small counts as much as one that is learned whole.",
    )
