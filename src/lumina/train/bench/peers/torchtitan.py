"""torchtitan's Llama, in the interface of its releases 0.2: eager or compiled by block.

Its model, its adapter of Hugging Face's weights and its own `apply_compile`; a plain
loop around them, as its trainer's on one device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.bench.lumina_side import row_losses
from lumina.train.bench.peer import PeerContestant, register_peer
from lumina.train.bench.peers.transformers import autocast, optimizer_for

RELEASES = "0.2."
"""Others have another interface, which this adapter was not tried with."""


def refuses(plan: Plan) -> str:
    """Why its Llama cannot do what a Plan asks."""
    spec = plan.spec
    other = {
        "experts": spec.moe is not None,
        "tie_embeddings": spec.tie_embeddings,
        "window_size": bool(spec.window_size),
        "use_qk_norm": spec.qk_norm != "none",
        "head_dim": spec.head_dim * spec.num_heads != spec.hidden_size,
        "rope_scaling": spec.rope_scaling != "none",
    }
    wrong = [name for name, is_so in other.items() if is_so]
    return f"its Llama has no such {wrong[0]}" if wrong else ""


class Torchtitan(PeerContestant):
    """torchtitan's model in a plain loop.

    Args:
        plan: Lumina's.
        model: float32, on the device.
        compiled: whether its blocks and its loss are compiled.
    """

    def __init__(self, plan: Plan, model: Any, compiled: bool) -> None:
        from torchtitan.components.loss import cross_entropy_loss

        torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
        self.plan = plan
        self.model = model.train()
        self.parameters = sum(p.numel() for p in model.parameters())
        self.optimizer = optimizer_for(plan, model)
        self._loss: Any = cross_entropy_loss
        if compiled:
            from torchtitan.config.job_config import Compile
            from torchtitan.models.llama3.infra.parallelize import apply_compile

            apply_compile(model, Compile(enable=True))
            self._loss = torch.compile(cross_entropy_loss)

    def ready(self, ids_bs: Tensor, labels_bs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `Contestant.ready`."""
        size, device = self.plan.micro_batch_size, self.plan.device
        return [
            (a.to(device), b.to(device))
            for a, b in zip(ids_bs.split(size), labels_bs.split(size), strict=True)
        ]

    def step(self, rows: Any) -> tuple[Tensor, Tensor]:
        """See `Contestant.step`."""
        tokens = sum(labels.numel() for _, labels in rows)
        total = torch.zeros((), device=self.plan.device)
        for ids, labels in rows:
            with autocast(self.plan):
                loss = self._loss(self.model(ids), labels) / tokens
            loss.backward()
            total += loss.detach()
        most = self.plan.max_grad_norm or float("inf")
        parameters = self.model.parameters()
        norm = torch.nn.utils.clip_grad_norm_(parameters, most, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total, norm

    @torch.no_grad()
    def token_losses(self, ids_bs: Tensor, labels_bs: Tensor) -> Tensor:
        """See `PeerContestant.token_losses`."""
        found = [
            row_losses(self.model(ids.to(self.plan.device)), labels)
            for ids, labels in zip(ids_bs.split(1), labels_bs.split(1), strict=True)
        ]
        return torch.cat(found)


@register_peer("torchtitan", module="torchtitan", package="torchtitan", refuses=refuses)
def torchtitan(plan: Plan, folder: Path, options: frozenset[str]) -> PeerContestant:
    """Its Llama with the weights of the folder."""
    from lumina.train.bench.peer import PEERS

    version = PEERS["torchtitan"].version
    if not version.startswith(RELEASES):
        raise LuminaError(
            "E003",
            f"torchtitan {version} is installed, and the adapter is for {RELEASES}x",
            "pip install torchtitan==0.2.2",
        )
    if "checkpointing" in options:
        raise LuminaError(
            "E002",
            "the adapter of torchtitan keeps all activations",
            "leave out +checkpointing",
        )
    from torchtitan.models.llama3.model.args import (
        RoPEScalingArgs,
        TransformerModelArgs,
    )
    from torchtitan.models.llama3.model.model import Transformer
    from torchtitan.models.llama3.model.state_dict_adapter import Llama3StateDictAdapter

    spec = plan.spec
    arguments = TransformerModelArgs(
        dim=spec.hidden_size,
        n_layers=spec.num_layers,
        n_heads=spec.num_heads,
        n_kv_heads=spec.num_kv_heads,
        vocab_size=spec.vocab_size,
        # Its width is int(factor * int(8 * dim / 3)), rounded up to the multiple.
        ffn_dim_multiplier=(spec.intermediate_size + 0.5) / (8 * spec.hidden_size // 3),
        multiple_of=1,
        norm_eps=spec.norm_eps,
        rope_theta=spec.rope_theta,
        rope_scaling_args=RoPEScalingArgs(scaling_factor=1.0),  # none
        max_seq_len=spec.seq_length,
    )
    with torch.device(plan.device):
        model = Transformer(arguments)
    with torch.no_grad():
        model.init_weights(buffer_device=torch.device(plan.device))
    theirs = Llama3StateDictAdapter(arguments, None).from_hf(_tensors(folder))
    found = model.load_state_dict(theirs, strict=False)
    # Buffers of rotary angles are in no file; everything else has to be.
    left = [name for name in found.missing_keys if name != "freqs_cis"]
    if left or found.unexpected_keys:
        raise LuminaError(
            "E307",
            f"torchtitan {version} has other tensors than the weights: "
            f"{', '.join([*left, *found.unexpected_keys][:3])}",
            "pip install torchtitan==0.2.2",
        )
    return Torchtitan(plan, model, "compile" in options)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a Hugging Face folder, by name."""
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found
