"""Which rounding of AdamW's moments changes what a small training learns, and how much.

    python benchmarks/rounded_moments.py                              4 bits, CPU
    python benchmarks/rounded_moments.py --cell MTX-27 --bits 8 --device cuda

The training is that of `lumina matrix`, or of one of its named cells. Each way of
keeping the moments trains with the same seeds, and the mean loss of the last ten steps
is told for each. `exact` goes through the same code and rounds nothing. `AdamW, rate +
1e-5` is AdamW with a learning rate that is larger by a hundred-thousandth: what the
training itself makes of a difference that means nothing. Prints a JSON line for each.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.config import Config
from lumina.observe.console import Console
from lumina.ops.low_bits.dynamic_map import dynamic_map
from lumina.optim.blocks import Code, linear_map
from lumina.optim.coded_moments import ROLES
from lumina.optim.declared import StateTensor, by_element, register_optimizer
from lumina.optim.moments import MOMENTS
from lumina.optim.optimizer import Slot
from lumina.optim.small_moments import SmallMoments
from lumina.train.matrix.named import named_cells
from lumina.train.matrix.setting import LAST, RUN, placed, write_files
from lumina.train.trainer import Trainer

Rounding = Callable[[Tensor], Tensor]

CODES = {
    4: (Code(dynamic_map(4, signed=True), 4), Code(linear_map(4), 4)),
    8: (
        Code(dynamic_map(8, signed=True), 8),
        Code(dynamic_map(8, signed=False), 8, never_zero=True),
    ),
}
CHOSEN: list[Rounding] = []
"""What the mean and the mean square go through after each step."""


def exact(x: Tensor) -> Tensor:
    """As it is."""
    return x


def nearest(code: Code) -> Rounding:
    """To the nearest value of a code."""
    return lambda x: code.decoded(*code.encoded(x), x.shape[1])


def at_random(code: Code) -> Rounding:
    """To one of the two values beside it, so that the mean is right."""

    def rounded(x: Tensor) -> Tensor:
        values = code.tables(x.device)[0]
        scale = x.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
        above = torch.bucketize((x / scale).contiguous(), values)
        above = above.clamp(1, len(values) - 1)
        low, high = values[above - 1], values[above]
        up = torch.rand_like(x) < (x / scale - low) / (high - low)
        return torch.where(up, high, low) * scale

    return rounded


@register_optimizer(
    "rounded_moments",
    words="AdamW whose moments go through a function",
    transfer=by_element,
    states={name: StateTensor() for name in MOMENTS},
    settings={"beta1": "beta1", "beta2": "beta2", "eps": "eps"},
    roles=ROLES,
    dimensions=2,
    rest="adamw",
)
class RoundedMoments(SmallMoments):
    """AdamW in float32; what is stored has gone through `CHOSEN`."""

    def __init__(self, slots: list[Slot], options: Any, **more: Any) -> None:
        super().__init__(slots, options, **(more | {"fused": False}))

    def first_states(self, slot: Slot) -> dict[str, Tensor]:
        """Moments of 0."""
        return {name: torch.zeros_like(slot.master) for name in MOMENTS}

    def load(self, slot: Slot, rows: slice) -> tuple[Tensor, Tensor]:
        """Both moments of some rows."""
        mean, square = (_rows(slot.state[name])[rows].clone() for name in MOMENTS)
        return mean, square

    def store(
        self, slot: Slot, rows: slice, mean: Tensor, square: Tensor, skip: Tensor
    ) -> None:
        """Both moments after their functions."""
        for name, value, function in zip(MOMENTS, (mean, square), CHOSEN, strict=True):
            _rows(slot.state[name])[rows].copy_(function(value))


def _rows(tensor: Tensor) -> Tensor:
    return tensor.view(-1, tensor.shape[-1])


def main() -> None:
    """Train each way with each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, choices=sorted(CODES), default=4)
    parser.add_argument("--cell", default="", help="a named cell, such as MTX-27")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(1)
    options = dict(RUN)
    if args.cell:
        (cell,) = (one for one in named_cells() if one.name == args.cell)
        options |= cell.options
    seeds = range(1, args.seeds + 1)
    with tempfile.TemporaryDirectory() as folder:
        places = write_files(Path(folder) / "files")
        options = {name: placed(value, places) for name, value in options.items()}
        options["device"] = args.device
        for way, changes in _ways(args.bits):
            found = [_learned(options | changes | {"seed": seed}) for seed in seeds]
            print(json.dumps({"way": way, "losses": found}), flush=True)


def _ways(bits: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is tried: its name, and the options that it changes."""
    yield "AdamW", {"optimizer": "adamw"}
    rate = RUN["learning_rate"] * (1 + 1e-5)
    yield "AdamW, rate + 1e-5", {"optimizer": "adamw", "learning_rate": rate}
    kept = {"optimizer": f"adamw_{bits}bit"}
    yield f"adamw_{bits}bit", kept
    narrow = {"precision": "mixed_bf16"}
    again = {"gradient_checkpointing": "full"}
    yield "AdamW, bf16", {"optimizer": "adamw"} | narrow
    yield f"adamw_{bits}bit, bf16, checkpointing", kept | narrow | again
    mean, square = CODES[bits]
    for way, functions in {
        "exact": (exact, exact),
        "both to the nearest, not fused": (nearest(mean), nearest(square)),
        "the mean to the nearest": (nearest(mean), exact),
        "the mean at random": (at_random(mean), exact),
        "the square to the nearest": (exact, nearest(square)),
        "the mean at random, the square to the nearest": (
            at_random(mean),
            nearest(square),
        ),
    }.items():
        CHOSEN[:] = functions
        yield way, {"optimizer": "rounded_moments"}


def _learned(options: dict[str, Any]) -> float:
    """The mean loss of the last steps."""
    with tempfile.TemporaryDirectory() as folder:
        config = Config(**options, run_dir=f"{folder}/run")
        console = Console(stream=io.StringIO(), live=False)
        rows = Trainer(config, console=console).train().run_dir / "metrics.jsonl"
        losses = [json.loads(line)["loss"] for line in rows.read_text().splitlines()]
    return round(statistics.fmean(losses[-LAST:]), 4)


if __name__ == "__main__":
    main()
