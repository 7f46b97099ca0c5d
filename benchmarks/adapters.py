"""What each method of adapting a model holds, and what a step of it takes.

    python benchmarks/adapters.py                             # tiny, on a CPU
    python benchmarks/adapters.py --device cuda --width 4096 --layers 32 --heads 32 \
        --intermediate 14336 --length 4096 --precision bf16 --rank 32 --compile

Every line is one way to train the same freshly initialised model on the same rows: all
of its weights, then adapters by each method. It names the parameters that train, bytes
that stay between steps as the plan counts them and as they are, most bytes in a step
(on CUDA, where the allocator is asked), and the median seconds of a step after the
first ones.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from lumina.assemble.assemble import assemble
from lumina.assemble.program import Program
from lumina.assemble.source import StateSource
from lumina.batch import Batch
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.model.adapters.start import FirstValues
from lumina.model.adapters.table import METHODS
from lumina.model.declared import declared
from lumina.model.initial import initial_value
from lumina.model.kinds.adapters import placed
from lumina.plan.environment import probe
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.quantities import byte_size
from lumina.state.adapter_base import Started
from lumina.state.state import State
from lumina.train.step import train_step

SKIPPED = 2
"""First steps that are not timed."""


def planned(arguments: argparse.Namespace, method: str) -> Plan:
    """The Plan of one way; "" trains all weights."""
    adapted: dict[str, Any] = {}
    if method:
        adapted = {
            "use_peft": True,
            "init_from": "none",
            "peft_method": method,
            "lora_r": arguments.rank,
            "lora_dropout": arguments.dropout,
        }
    config = Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        num_layers=arguments.layers,
        num_heads=arguments.heads,
        intermediate_size=arguments.intermediate,
        seq_length=arguments.length,
        batch_size=arguments.rows,
        global_batch_size=arguments.rows,
        precision=arguments.precision,
        device=arguments.device,
        gradient_checkpointing=arguments.checkpointing,
        compile=arguments.compile,
        steps=arguments.steps,
        **adapted,
    )
    return make_plan(
        config,
        probe(config),
        tokenizer_vocab_size=arguments.vocabulary,
        rows_per_epoch=None,
        world_size=1,
    )


def begun(plan: Plan) -> Program:
    """A program with first values; those of the base come from the seed, too."""
    tensors = declared(plan.spec)
    if not plan.spec.adapters:
        return assemble(plan)

    def whole(logical: str) -> torch.Tensor:
        one, piece = pieces[logical]
        value = initial_value(one, plan.seed)
        return value if piece is None else value.split(sizes[one.name], one.dim)[piece]

    pieces: dict[str, Any] = {}
    sizes: dict[str, list[int]] = {}
    for one in tensors.values():
        sizes[one.name] = [piece.size for piece in one.pieces]
        for number, logical in enumerate(one.logical_names):
            pieces[logical] = one, number if one.pieces else None
    first = FirstValues(tensors, placed(plan.spec, tensors), plan.seed, whole)
    own = {n for n, one in pieces.items() if one[0].saved} - first.names
    source = _Drawn(whole, sorted(own))
    return assemble(plan, Started(source, first, first.names))


class _Drawn(StateSource):
    """Tensors that are drawn when they are read."""

    def __init__(self, draw: Any, own: list[str]) -> None:
        super().__init__(State())
        self.draw, self.own = draw, own

    def names(self) -> list[str]:
        """Logical names."""
        return self.own

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor, whole."""
        drawn: torch.Tensor = self.draw(name)
        return drawn


def measured(arguments: argparse.Namespace, method: str) -> str:
    """One line."""
    plan = planned(arguments, method)
    cuda = plan.device == "cuda"
    program = begun(plan)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.rows, arguments.length)
    ids = torch.randint(0, arguments.vocabulary, shape, generator=generator)
    batch = Batch.from_rows(ids, ids.roll(-1, 1))
    held = sum(p.nbytes for p in program.network.parameters())
    trained = sum(slot.parameter.numel() for slot in program.optimizer.slots)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for step in range(arguments.steps):
        begin = time.perf_counter()
        batches = StepBatches([batch], ids.numel(), ids.numel(), {}, None, [])
        loss = train_step(program, batches, step)[0].item()
        seconds.append(time.perf_counter() - begin)
    peak = byte_size(torch.cuda.max_memory_allocated()) if cuda else "not measured"
    program.close()
    counted = plan.memory
    states = counted["master_weights"] + counted["optimizer"] + counted["gradients"]
    return (
        f"{method or 'all weights':<12}{trained:>14,} train"
        f"{byte_size(held):>12} weights (planned {byte_size(counted['weights'])}), "
        f"{byte_size(states)} states and gradients planned, most {peak}, "
        f"{statistics.median(seconds[SKIPPED:]) * 1e3:,.1f} ms a step, loss {loss:.3f}"
    )


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--checkpointing", default="none")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--methods", nargs="*", default=["", *METHODS.known()])
    for name, value in (
        ("width", 128), ("layers", 2), ("heads", 4), ("intermediate", 256),
        ("length", 64), ("rows", 2), ("rank", 8), ("vocabulary", 512), ("steps", 6),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    for method in arguments.methods:
        print(measured(arguments, method), flush=True)


if __name__ == "__main__":
    main()
