"""transformers: its model and a plain loop, eager SDPA or compiled as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.plan.plan import Plan
from lumina.train.bench.lumina_side import row_losses
from lumina.train.bench.peer import PeerContestant, register_peer


def optimizer_for(plan: Plan, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW with the numbers of a Plan; matrices decay, as in Lumina."""
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2]},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=plan.learning_rate,
        betas=(plan.beta1, plan.beta2),
        eps=plan.eps,
        weight_decay=plan.weight_decay,
        fused=True,
    )


def autocast(plan: Plan) -> torch.autocast:
    """Products in the compute type, weights in float32."""
    half = plan.compute_dtype == "bfloat16"
    return torch.autocast(plan.device, torch.bfloat16, enabled=half)


class Transformers(PeerContestant):
    """A model of transformers with its own loss, in a loop of PyTorch's.

    Args:
        plan: Lumina's.
        model: float32, on the device.
        options: of the peer.
    """

    def __init__(self, plan: Plan, model: Any, options: frozenset[str]) -> None:
        torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
        self.plan = plan
        self.model = model.train()
        self.parameters = sum(p.numel() for p in model.parameters())
        if "checkpointing" in options:
            model.gradient_checkpointing_enable()
        self.run: Any = torch.compile(model) if "compile" in options else model
        self.optimizer = optimizer_for(plan, model)

    def ready(self, ids_bs: Tensor, labels_bs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `Contestant.ready`."""
        size, device = self.plan.micro_batch_size, self.plan.device
        return [
            (a.to(device), b.to(device))
            for a, b in zip(ids_bs.split(size), labels_bs.split(size), strict=True)
        ]

    def step(self, rows: Any) -> tuple[Tensor, Tensor]:
        """See `Contestant.step`."""
        total = torch.zeros((), device=self.plan.device)
        for ids, labels in rows:
            with autocast(self.plan):
                loss = self.run(
                    input_ids=ids, labels=labels, shift_labels=labels, use_cache=False
                ).loss
            (loss / len(rows)).backward()
            total += loss.detach() / len(rows)
        most = self.plan.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), most)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    @torch.no_grad()
    def token_losses(self, ids_bs: Tensor, labels_bs: Tensor) -> Tensor:
        """See `PeerContestant.token_losses`."""
        self.model.eval()
        found = [
            row_losses(
                self.model(input_ids=ids.to(self.plan.device), use_cache=False).logits,
                labels,
            )
            for ids, labels in zip(ids_bs.split(1), labels_bs.split(1), strict=True)
        ]
        self.model.train()
        return torch.cat(found)


def options_for(plan: Plan) -> dict[str, Any]:
    """What `from_pretrained` is given."""
    found: dict[str, Any] = {
        "dtype": torch.float32,
        "attn_implementation": "sdpa",
        "local_files_only": True,
    }
    if plan.spec.moe is not None and plan.device == "cuda":
        found["experts_implementation"] = "grouped_mm"
    return found


@register_peer("transformers", module="transformers", package="transformers")
def transformers(plan: Plan, folder: Path, options: frozenset[str]) -> PeerContestant:
    """A model of transformers' own class for the folder."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(folder, **options_for(plan))
    return Transformers(plan, model.to(plan.device), options)
