"""Lumina in a comparison: its reference, and its own step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.assemble.assemble import assemble
from lumina.assemble.initial_values import InitialValues
from lumina.data.stream import StepBatches
from lumina.infer.load import filled_network
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.stored import declared_tensors
from lumina.plan.plan import Plan
from lumina.state.huggingface.export import export_folder
from lumina.state.weights import open_weights
from lumina.train.bench.peer import Contestant
from lumina.train.bench.rows import as_batches
from lumina.train.bench.work import (
    Work,
    exact_products,
    halves,
    save_losses,
    sharpened,
)
from lumina.train.step import train_step


class Lumina(Contestant):
    """The Program of a Plan, with the weights that were handed over."""

    def __init__(self, work: Work) -> None:
        self.plan = work.plan
        torch.set_float32_matmul_precision("high" if self.plan.tf32 else "highest")
        weights = open_weights(work.model, piecewise=True)
        try:
            self.program = assemble(self.plan, weights.source)
        finally:
            weights.close()
        self.program.model.train()
        self.parameters = sum(p.numel() for p in self.program.network.parameters())
        self._done = 0

    def ready(self, ids_bs: Tensor, labels_bs: Tensor) -> StepBatches:
        """See `Contestant.ready`."""
        rows = torch.cat([ids_bs, labels_bs[:, -1:]], dim=1)
        return as_batches(self.plan, rows, self.plan.device)

    def step(self, rows: Any) -> tuple[Tensor, Tensor]:
        """See `Contestant.step`."""
        metrics = train_step(self.program, rows, self._done)
        self._done += 1
        return metrics[0], metrics[1]


@torch.no_grad()
def make_reference(work: Work) -> None:
    """Write first weights, unless they are there, and the losses of the first rows.

    The losses are those of the uncompiled network in float32 with attention spelled
    out, row by row: once with the weights as they are, and once sharpened.
    """
    exact_products()
    plan = work.plan
    device = torch.device(plan.device)
    if not work.model.exists():
        network = first_network(plan, device)
        export_folder(network, None, work.model)
        del network
    weights = open_weights(work.model, piecewise=True)
    try:
        network = filled_network(weights, device, torch.float32).eval()
    finally:
        weights.close()
    network.backbone.attention = "reference"
    ids, labels = halves(work.rows(0)[0])
    pairs = list(zip(ids.split(1), labels.split(1), strict=True))

    def losses() -> Tensor:
        return torch.cat(
            [row_losses(network.logits(a.to(device)), b) for a, b in pairs]
        )

    with sharpened(network, work.sharpness):
        sharp = losses()
    save_losses(work, losses(), sharp)


def first_network(plan: Plan, device: torch.device) -> Network:
    """A network of a Plan's shape with the first weights of its seed."""
    network = build_network(plan.spec, device=device, seed=None)
    tensors = declared_tensors(network)
    values = InitialValues(network, list(tensors), plan.seed)
    for name, tensor in tensors.items():
        tensor.detach().copy_(values.take(name))
    return network


@torch.no_grad()
def row_losses(logits_bsv: Tensor, labels_bs: Tensor) -> Tensor:
    """[B, S] float32 on the CPU: the cross entropy of every token."""
    labels = labels_bs.to(logits_bsv.device)
    losses = F.cross_entropy(
        logits_bsv.float().flatten(0, 1), labels.flatten(), reduction="none"
    )
    return losses.view(labels.shape).cpu()
