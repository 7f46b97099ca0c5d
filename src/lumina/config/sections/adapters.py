"""Options of adapters: small tensors that train beside a frozen base."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section

PeftMethod = Literal["lora", "rslora", "lora_plus", "dora", "pissa", "loftq", "ia3",
                     "loha", "lokr", "adalora"]  # fmt: skip


PeftPreset = Literal["budget", "efficient", "balanced", "high_quality", "adaptive"]


class AdaptersSection(Section):
    """Adapters: small tensors that train beside a frozen base."""

    describes_model = True

    use_peft: bool = Field(
        False,
        description="train small adapters beside the frozen weights of init_from; "
        "checkpoints hold the adapters alone",
    )
    peft_method: PeftMethod = Field(
        "lora", description="how an adapter changes the matrix that it stands on"
    )
    peft_preset: PeftPreset | None = Field(
        None,
        description="sets rank, alpha, targets and method where they are not named: "
        "budget (rank 4 on q, v), efficient (8 on attention), balanced (16 on all), "
        "high_quality (dora of rank 64 on all, and the heads train), adaptive (adalora "
        "of rank 16 on all)",
    )
    lora_r: int = Field(
        16, ge=1, le=256, description="rank: width of the narrow side of an adapter"
    )
    lora_alpha: float = Field(
        32.0,
        gt=0,
        description="the change is multiplied by lora_alpha / lora_r (rslora: by "
        "lora_alpha / sqrt(lora_r))",
    )
    lora_dropout: float = Field(
        0.05, ge=0, lt=1, description="share of an adapter's input dropped in training"
    )
    lora_target_modules: tuple[str, ...] = Field(
        ("full",),
        description="matrices with an adapter: minimal (q, v), balanced (q, k, v, o), "
        "full (those, gate, up, down), all-linear, names such as q_proj or lm_head, "
        "or patterns over names in files such as 'blocks.0.attention.*'",
    )
    lora_plus_ratio: float = Field(
        16.0,
        gt=0,
        description="lora_plus: learning rate of B over that of A",
    )
    peft_also_train: tuple[str, ...] = Field(
        (),
        description="patterns over names in files: parameters of the base that train "
        "beside the adapters, such as 'objective.head.*' or '*norm.weight'; heads: "
        "what gives the scores of tokens, and what decides to halt",
    )
    peft_base: str | None = Field(
        None,
        description="where the base of a run with adapters is now, if it was moved; "
        "its content must be the same",
    )
