"""transformers with Liger's kernels (Hsu et al., 2024, arXiv:2410.10989)."""

from __future__ import annotations

import json
from pathlib import Path

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.bench.peer import PeerContestant, register_peer
from lumina.train.bench.peers.transformers import Transformers, options_for


@register_peer("liger", module="liger_kernel", package="liger-kernel", gpu=True)
def liger(plan: Plan, folder: Path, options: frozenset[str]) -> PeerContestant:
    """The model that Liger's own loader makes: norms, rotary, SwiGLU, fused loss."""
    from liger_kernel.transformers import AutoLigerKernelForCausalLM
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    kind = json.loads((folder / "config.json").read_text())["model_type"]
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise LuminaError(
            "E002",
            f"Liger has no kernels for models of type {kind}",
            "leave out --against liger",
        )
    model = AutoLigerKernelForCausalLM.from_pretrained(folder, **options_for(plan))
    return Transformers(plan, model.to(plan.device), options)
