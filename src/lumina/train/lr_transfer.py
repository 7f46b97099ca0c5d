"""Whether a rate carries over: activations and losses of models of several widths.

The coordinate check follows Yang et al., 2022, arXiv:2203.03466, appendix D: after some
steps, how far the activations have moved should not depend on the width. The sweep
trains each width at several rates; where the rate carries over, the best one is the
same for all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.assemble import assemble
from lumina.assemble.program import Program
from lumina.batch import Batch
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.plan.environment import Environment, probe
from lumina.plan.make import make_plan
from lumina.train.step import train_step

VOCABULARY = 256
ORDER, KINDS = 2, 8
"""Tokens that decide the odds of the next one, each by its remainder of `KINDS`."""


@dataclass(frozen=True)
class Shape:
    """A model of the comparison.

    Attributes:
        width: its hidden size.
        layers: its blocks.
    """

    width: int
    layers: int


class Chain:
    """Rows of a random chain: the two last tokens decide the odds of the next.

    Args:
        seed: of the odds and the rows.
        length: tokens of a row.
        rows: of a step.
        steps: for which there are rows.
        device: where rows are drawn.
    """

    def __init__(
        self, seed: int, length: int, rows: int, steps: int, device: str
    ) -> None:
        draw = torch.Generator(device).manual_seed(seed + 1)
        odds = torch.Generator().manual_seed(seed)
        scores = torch.randn(KINDS, KINDS, VOCABULARY, generator=odds) * 2.5
        chances = scores.softmax(-1).to(device)
        whole = steps * rows, length + 1
        tokens = torch.randint(VOCABULARY, whole, generator=draw, device=device)
        for place in range(ORDER, length + 1):
            now = chances[tokens[:, place - 2] % KINDS, tokens[:, place - 1] % KINDS]
            tokens[:, place] = torch.multinomial(now, 1, generator=draw)[:, 0]
        self._steps = tokens.split(rows)

    def step(self, number: int) -> StepBatches:
        """The rows of a step."""
        tokens = self._steps[number]
        inputs, labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        batch = Batch.from_rows(inputs, labels)
        return StepBatches([batch], labels.numel(), labels.numel(), {}, None, [])


def program_of(
    shape: Shape, rate: float, steps: int, machine: Environment, **leaves: Any
) -> Program:
    """A model of a shape, ready to train at a rate.

    Args:
        shape: its width and layers; heads are of 16 or 64, and its feed-forward is
            three times as wide.
        rate: the peak.
        steps: of the run, for its schedule.
        machine: where it trains.
        leaves: further options.
    """
    head = min(64, max(16, shape.width // 8))
    values: dict[str, Any] = {
        "hidden_size": shape.width,
        "intermediate_size": 3 * shape.width,
        "num_layers": shape.layers,
        "head_dim": head,
        "num_heads": shape.width // head,
        "vocab_size": VOCABULARY,
        "seq_length": 64,
        "batch_size": 16,
        "learning_rate": rate,
        "auto_adjust_lr": False,
        "weight_decay": 0.0,
        "warmup_ratio": 0.1,
        "steps": steps,
        "device": machine.device,
        "compile": False,
    }
    plan = make_plan(
        Config(**(values | leaves)),
        machine,
        tokenizer_vocab_size=None,
        rows_per_epoch=None,
    )
    return assemble(dataclasses.replace(plan, seed=1))


def chain_for(program: Program, steps: int) -> Chain:
    """Rows for the steps of a program."""
    plan = program.plan
    return Chain(7, plan.spec.seq_length, plan.global_batch_size, steps, plan.device)


def activations(program: Program, batch: Batch) -> dict[str, Tensor]:
    """What comes out of the embedding, every block, the last norm and the head."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            found[name] = value.detach().float()

        return hook

    backbone = program.network.backbone
    modules = {"embedding": backbone.embedding, "norm": backbone.norm}
    modules |= {f"block {n}": block for n, block in enumerate(backbone.blocks)}
    handles = [m.register_forward_hook(keep(name)) for name, m in modules.items()]
    with torch.no_grad():
        hidden = backbone(batch.to(program.device)).hidden
        found["logits"] = program.network.objective.logits(hidden).float()
    for handle in handles:
        handle.remove()
    return found


def movement(program: Program, data: Chain, steps: int) -> dict[str, float]:
    """How far each activation moves in some steps: the mean absolute change."""
    probe_batch = data.step(0).micro_batches[0]
    before = activations(program, probe_batch)
    for step in range(steps):
        train_step(program, data.step(step), step)
    after = activations(program, probe_batch)
    return {
        name: (after[name] - value).abs().mean().item()
        for name, value in before.items()
    }


def final_loss(program: Program, data: Chain, steps: int) -> float:
    """The mean loss of the last fifth of a run; infinite where it diverged."""
    losses = [train_step(program, data.step(step), step)[0] for step in range(steps)]
    kept = torch.stack(losses[-max(steps // 5, 1) :]).mean().item()
    return kept if math.isfinite(kept) else math.inf


@dataclass(frozen=True)
class Swept:
    """The losses of one shape over the rates.

    Attributes:
        mode: "none", "mup" or "completep".
        shape: the model.
        losses: by rate.
    """

    mode: str
    shape: Shape
    losses: dict[float, float]

    @property
    def best(self) -> float:
        """The rate with the lowest loss."""
        return min(self.losses, key=self.losses.__getitem__)


def sweep(
    shapes: Sequence[Shape],
    rates: Sequence[float],
    steps: int,
    modes: Sequence[str],
    *,
    tell: Callable[[str], None] = lambda text: None,
    **leaves: Any,
) -> list[Swept]:
    """Train every shape at every rate, without and with rates that carry over.

    Args:
        shapes: the first is the base.
        rates: peaks to try.
        steps: of each run.
        modes: "none", "mup" or "completep".
        tell: shows a line of progress.
        leaves: further options of every run.
    """
    machine, base, found = probe(), shapes[0], list[Swept]()
    data: Chain | None = None
    for mode in modes:
        carried: dict[str, Any] = {}
        if mode != "none":
            carried = {"lr_transfer": mode, "base_width": base.width}
        if mode == "completep":
            carried["base_depth"] = base.layers
        for shape in shapes:
            losses = {}
            for rate in rates:
                more = carried | {"head_dim": min(64, max(16, base.width // 8))}
                more["num_heads"] = shape.width // more["head_dim"]
                program = program_of(shape, rate, steps, machine, **(more | leaves))
                data = data or chain_for(program, steps)
                losses[rate] = final_loss(program, data, steps)
                program.optimizer.close()
            found.append(Swept(mode, shape, losses))
            tell(
                f"{mode}, width {shape.width}, {shape.layers} layers: best "
                f"{found[-1].best:.2g}; "
                + " ".join(f"{r:.2g}:{loss:.3f}" for r, loss in losses.items())
            )
    return found
