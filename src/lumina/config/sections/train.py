"""Options of training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class TrainSection(Section):
    """How the weights are fitted."""

    init_from: str | None = Field(
        None,
        description="a run, checkpoint or exported folder to take weights from; rate, "
        "batch, length and schedule are then those of a fine-tuning of a model of that "
        "size, whatever the preset, unless you name them; for a "
        "reasoner of text also a language model to take tokenizer and vectors from",
    )
    freeze: tuple[str, ...] = Field(
        (), description="parameters (glob patterns) that do not train"
    )
    expert_id: str | None = Field(
        None, description="train this one expert, added to a frozen --init-from model"
    )
    expert_registry: str = Field(
        "experts", description="folder of the registry that named experts are kept in"
    )
    default_goal: str | None = Field(
        None, description="goal the trained expert serves; routing leans towards it"
    )
    steps: int | None = Field(
        None, ge=1, description="optimizer steps; default: those of the epochs"
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the data; the smaller limit holds; default: 3 where "
        "steps are not named",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences per device and forward; default: the largest power of "
        "two that divides a step and fits into memory",
    )
    grad_accum: int | None = Field(
        None,
        ge=1,
        description="forwards per device and step; default: as many as a step needs",
    )
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences per step over all devices; default: about 32",
    )
    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate")
    auto_adjust_lr: bool = Field(
        True, description="lower a dense model's usual rate for routed experts"
    )
    min_lr: float | None = Field(
        None, ge=0, description="final learning rate; default: a tenth of the peak"
    )
    lr_scheduler: str = Field(
        "cosine",
        description="how the learning rate moves after warm-up: constant (none), "
        "linear, cosine, wsd (stable, then a decay), polynomial, inverse_sqrt, "
        "onecycle; or a schedule that a plug-in registers",
    )
    lr_scheduler_options: tuple[str, ...] = Field(
        (),
        description="options of the schedule itself, OPTION=VALUE, such as power=1.5 "
        "of polynomial",
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="steps of warm-up; takes precedence over warmup_ratio, which "
        "decides by default",
    )
    warmup_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the run spent on warm-up; default: 0.1 of fewer than "
        "10,000 steps, 0.05 of up to 100,000, 0.02 of more; of onecycle 0.3",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="share of the run that decays (wsd)"
    )
    decay_steps: int | None = Field(
        None,
        ge=1,
        description="steps that decay (wsd); takes precedence over decay_ratio, which "
        "decides by default",
    )
    weight_decay: float = Field(
        0.01, ge=0, description="decoupled weight decay, of matrices only"
    )
    optimizer: str = Field(
        "adamw",
        description=(
            "adamw; adamw_bf16, adamw_8bit and adamw_4bit, with moments of that many "
            "bits; adam_atan2, Adam with atan2 in place of the division; adafactor; "
            "lion; muon, with AdamW for all but matrices; schedule_free, AdamW that "
            "evaluates a mean of its steps; sgd; or one that a plug-in registers"
        ),
    )
    optimizer_groups: tuple[str, ...] = Field(
        (),
        description="tensors that another optimizer trains, PATTERN=OPTIMIZER; the "
        "first pattern that matches holds; role:matrix names a role",
    )
    optimizer_options: tuple[str, ...] = Field(
        (),
        description="options of an optimizer itself, OPTION=VALUE; for one of several, "
        "OPTIMIZER.OPTION=VALUE",
    )
    group_learning_rates: tuple[str, ...] = Field(
        (),
        description="tensors whose learning rate is multiplied, PATTERN=FACTOR; the "
        "first pattern that matches holds; role:embedding names a role",
    )
    group_weight_decays: tuple[str, ...] = Field(
        (),
        description="tensors whose weight decay is multiplied, PATTERN=FACTOR, with 0 "
        "for none; norms and biases have none anyway",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate")
    beta2: float = Field(0.95, ge=0, lt=1, description="Adam's second decay rate")
    eps: float = Field(1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(
        1.0, ge=0, description="clip the global gradient norm; 0: do not clip"
    )
    qk_clip: float = Field(
        0.0,
        ge=0,
        description="after a step, scale queries and keys of the heads whose largest "
        "attention logit was above this; 100 is usual, with Muon; 0: off",
    )
    gradient_steps: tuple[str, ...] = Field(
        (),
        description="small steps on gradients, in this order: agc, which clips each "
        "row by the size of the weights; centralise, which takes away the mean of a "
        "row; noise, which fades; robust_clip and zclip, which clip norms that stand "
        "out",
    )
    gradient_step_options: tuple[str, ...] = Field(
        (),
        description="options of gradient_steps, STEP.OPTION=VALUE",
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="moving average of weights for evaluation; 0: off"
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "share of each label that is spread evenly over all tokens in training; "
            "the reported losses are without it; 0: off"
        ),
    )
    swa_start: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the run after which evaluation uses the mean of the "
        "weights of all further steps; 0: off",
    )
    lookahead_steps: int = Field(
        0,
        ge=0,
        description=(
            "every N steps, set the weights back to slow weights that follow them "
            "(Lookahead); evaluation uses the slow ones; 0: off"
        ),
    )
    lookahead_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="how far the slow weights of lookahead_steps follow",
    )
    pin: tuple[str, ...] = Field(
        (),
        description=(
            "controls that no rule may change while the run trains, such as "
            "learning_rate; your own requests still change them"
        ),
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**63 - 1,
        description="seed of weights, data order and dropout",
    )
    eval_every_n_batches: int | None = Field(
        None,
        ge=0,
        description="steps between evaluations; 0: only at the end; default: a tenth "
        "of the run, at least 50",
    )
    eval_batches: int | None = Field(
        None, ge=1, description="batches in an evaluation; default: all, at most 50"
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="evaluations without improvement before stopping; 0: off"
    )
    early_stopping_min_improvement: float = Field(
        0.0,
        ge=0,
        lt=1,
        description=(
            "an evaluation restarts the patience only if it is better by this share "
            "than the last one that did; 0: any improvement does"
        ),
    )
    task_weights: tuple[float, ...] = Field(
        (), description="weights of the tasks' losses; default: every token counts once"
    )
    task_balancing: Literal["none", "dwa"] = Field(
        "none", description="dwa: more weight for tasks whose loss falls more slowly"
    )
    task_balancing_window: int = Field(
        50, ge=1, description="steps whose mean loss task_balancing compares"
    )
