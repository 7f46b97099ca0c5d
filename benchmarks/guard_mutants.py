"""How many wrong levers the guard catches, and how many right ones it refuses.

Each case is a small model of Lumina with a lever: a mutant, which is wrong on purpose,
or a right one, which computes the same in another way. It is measured and judged by
`lumina.guard` with the thresholds that every run has. The first set of mutants was
there while the thresholds were chosen; the second was written after they were frozen,
and decides.

    PYTHONPATH=src python benchmarks/guard_mutants.py --set second --out FILE.jsonl

A case takes some seconds; cases that FILE has already are not run again. How fast a
lever is, is made: every step of the baseline waits until it took 1.3 times as long (3
times beside the right levers, whose kernels are slow on a CPU), so that a lever that
does nothing to the speed is about 1.3x, and a slow one waits as long as its name says.
On the CPU time is that of the process, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.assemble.assemble import Progress, StateSource, assemble, capture
from lumina.batch import IGNORE, Batch
from lumina.guard.judge import judge
from lumina.guard.measure import measure
from lumina.guard.programs import ProgramSubject, batches_of, reference_plan
from lumina.guard.statistics import exact_bounds
from lumina.guard.thresholds import THRESHOLDS
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.plan.plan import Plan

SLOWER = 1.3
"""How much longer a step of the baseline takes."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A lever.

    Attributes:
        name: unique.
        kind: "mutant" or "right".
        dtype: of the run.
        moe: whether the model routes.
        seed: of the weights and the batches.
        faster: whether it claims to be faster.
        slower: how much longer a step of the baseline takes.
    """

    name: str
    kind: str
    dtype: str = "bfloat16"
    moe: bool = False
    seed: int = 5
    faster: bool = True
    slower: float = SLOWER


def plan_of(case: Case, device: str) -> Plan:
    routed = MoeSpec(num_experts=4, top_k=2, intermediate_size=32, layers=(0, 1))
    spec = ModelSpec(
        vocab_size=250,
        padded_vocab_size=256,
        hidden_size=64,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=96,
        seq_length=64,
        init_std=0.1,
        moe=routed if case.moe else None,
    )
    return Plan(
        spec=spec,
        device=device,
        compute_dtype=case.dtype,
        attention="reference",
        micro_batch_size=8,
        global_batch_size=8,
        max_grad_norm=0.0,
        seed=case.seed,
        steps=100_000,
    )


class Waiting(ProgramSubject):
    """A subject whose steps take a multiple of their time."""

    factor = 1.0

    def learn(self, batch: Batch) -> Tensor:
        self.synchronise()
        begin = clock(self)
        loss = super().learn(batch)
        self.synchronise()
        end = begin + (clock(self) - begin) * self.factor
        while clock(self) < end:
            pass
        return loss


def clock(subject: ProgramSubject) -> float:
    if subject.program.device.type == "cpu":
        return time.process_time()
    return time.perf_counter()


class Mutated(Waiting):
    """A subject with something done to it; by a hook below."""

    batch_of: Callable[[Batch, int], Batch] = staticmethod(lambda batch, step: batch)
    loss_factor = 1.0
    count_of: Callable[[Batch], int] | None = None
    before: Callable[[Mutated], None] | None = None
    reload: Callable[[Any], Any] | None = None

    def _backward(self, batch: Batch) -> Tensor:
        if self.before is not None:
            self.before(self)
        loss = super()._backward(self.batch_of(batch, self._step))
        return loss * self.loss_factor

    def saved_and_loaded(self, folder: Path) -> ProgramSubject:
        if self.reload is None:
            again = super().saved_and_loaded(folder)
        else:
            state = capture(self.program, Progress(step=self._step), everything=True)
            state = self.reload(state)
            program = assemble(self.program.plan, StateSource(state), meta=state)
            again = ProgramSubject(self.program.plan, program=program)
        prepared = Mutated(self.program.plan, program=again.program)
        self.prepare(prepared)
        return prepared

    prepare: Callable[[ProgramSubject], None] = staticmethod(lambda subject: None)


def _parameters(subject: ProgramSubject, match: str) -> list[Tensor]:
    found = [
        p for name, p in subject.program.network.named_parameters() if match in name
    ]
    if not found:
        raise ValueError(f"no parameter has {match!r} in its name")
    return found


def _modules(subject: ProgramSubject, match: str) -> list[torch.nn.Module]:
    found = [
        m for name, m in subject.program.network.named_modules() if name.endswith(match)
    ]
    if not found:
        raise ValueError(f"no module's name ends with {match!r}")
    return found


Hook = Callable[[Mutated], None]


def gradient(match: str, factor: float, after: int = 0) -> Hook:
    """Gradients are multiplied, from a step on."""

    def prepare(subject: Mutated) -> None:
        for parameter in _parameters(subject, match):
            parameter.register_hook(
                lambda g: g * factor if subject._step >= after else g
            )

    return prepare


def rounded_gradient(match: str, bits: int) -> Hook:
    """Gradients keep so many bits of mantissa."""

    def prepare(subject: Mutated) -> None:
        for parameter in _parameters(subject, match):
            parameter.register_hook(lambda g: _rounded(g, bits))

    return prepare


def _rounded(values: Tensor, bits: int) -> Tensor:
    mantissa, exponent = torch.frexp(values.float())
    scale = 2.0**bits
    return torch.ldexp((mantissa * scale).round() / scale, exponent).to(values.dtype)


def output(match: str, change: Callable[[Tensor, Mutated], Tensor]) -> Hook:
    """What a module gives is changed."""

    def prepare(subject: Mutated) -> None:
        def hook(module: Any, given: Any, out: Any) -> Any:
            if isinstance(out, tuple):
                return (change(out[0], subject), *out[1:])
            return change(out, subject)

        for module in _modules(subject, match):
            module.register_forward_hook(hook)

    return prepare


def rows(which: tuple[int, ...], renormalised: bool = False) -> Hook:
    """Rows of a batch do not count."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            labels = batch.labels.clone()
            labels[list(which)] = IGNORE
            if not renormalised:
                share = (labels != IGNORE).sum() / (batch.labels != IGNORE).sum()
                subject.loss_factor = float(share)
                weights = torch.full(labels.shape, float(share))
                return dataclasses.replace(batch, labels=labels, loss_weights=weights)
            return dataclasses.replace(batch, labels=labels)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def columns(begin: int, end: int) -> Hook:
    """Columns of a batch do not count; the mean is over the others."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            labels = batch.labels.clone()
            labels[:, begin:end] = IGNORE
            return dataclasses.replace(batch, labels=labels)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def merged(rows_of_it: int) -> Hook:
    """Documents of the first rows see each other."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            documents = batch.document_ids.clone()
            documents[:rows_of_it] = 0
            return dataclasses.replace(batch, document_ids=documents)

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def positions(change: Callable[[Tensor], Tensor]) -> Hook:
    """Positions are others."""

    def prepare(subject: Mutated) -> None:
        def batch_of(batch: Batch, step: int) -> Batch:
            return dataclasses.replace(batch, position_ids=change(batch.position_ids))

        subject.batch_of = batch_of  # type: ignore[method-assign]

    return prepare


def broken_at(length: int, value: float = float("nan")) -> Callable[..., Tensor]:
    """A value that is not finite, in documents of at least this length."""

    def change(out: Tensor, subject: Mutated) -> Tensor:
        batch = subject.given
        if batch is None or int(batch.position_ids.max()) + 1 < length:
            return out
        out = out.clone()
        out[..., -1, :] = out[..., -1, :] * value
        return out

    return change


def noting(subject: Mutated) -> None:
    """Hooks can see the batch."""
    inner = subject.batch_of

    def batch_of(batch: Batch, step: int) -> Batch:
        subject.given = batch
        return inner(batch, step)

    subject.batch_of = batch_of  # type: ignore[method-assign]


Mutated.given = None  # type: ignore[attr-defined]


def slow(speed: float) -> Hook:
    """So many times as fast as the baseline."""

    def prepare(subject: Mutated) -> None:
        subject.factor = SLOWER / speed

    return prepare


def leaking(size: int) -> Hook:
    """Every step leaves so many numbers behind."""

    def prepare(subject: Mutated) -> None:
        kept: list[Tensor] = []
        subject.before = lambda subject: kept.append(
            torch.zeros(size, device=subject.program.device)
        )

    return prepare


def loss(factor: float) -> Hook:
    """The loss that is told is another; the gradients are right."""

    def prepare(subject: Mutated) -> None:
        subject.loss_factor = factor

    return prepare


def reloaded(change: Callable[[Any], Any]) -> Hook:
    """A checkpoint has something else in it."""

    def prepare(subject: Mutated) -> None:
        subject.reload = change

    return prepare


def with_tensors(change: Callable[[str, Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda state: dataclasses.replace(
        state, tensors={n: change(n, t) for n, t in state.tensors.items()}
    )


def with_moments(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    return lambda state: dataclasses.replace(
        state,
        optimizer={
            slot: {n: change(t) for n, t in some.items()}
            for slot, some in state.optimizer.items()
        },
    )


def spec(**changes: Any) -> Callable[[Plan], Plan]:
    """The lever's model is another."""
    return lambda plan: plan.replace(spec=dataclasses.replace(plan.spec, **changes))


def scaled(factor: float) -> Callable[..., Tensor]:
    return lambda out, subject: out * factor


def first_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """The mutants that were there while the thresholds were chosen."""
    for dtype in ("float32", "bfloat16"):
        for name, hook in {
            "gradient x 1.01": gradient("", 1.01),
            "gradient of one matrix x 1.01": gradient("blocks.1.attention.out", 1.01),
            "dropped row": rows((3,)),
            "documents see each other": merged(8),
            "NaN in long documents": output("blocks.1", broken_at(64)),
            "0.9x": slow(0.9),
            "a leak": leaking(4096),
        }.items():
            yield Case(f"{name}, {dtype}", "mutant", dtype=dtype), hook, None
        window = spec(window_size=32)
        yield Case(f"a window of 32, {dtype}", "mutant", dtype=dtype), None, window


FASTER = ("sdpa", "blockwise")
"""Right levers that claim to be faster; the others save memory."""


def right_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """Levers that compute the same in another way."""
    ways: dict[str, Callable[[Plan], Plan]] = {
        "sdpa": lambda p: p.replace(attention="sdpa"),
        "blockwise": lambda p: p.replace(attention="blockwise"),
        "chunked loss": lambda p: p.replace(loss_chunk_bytes=2**16),
        "tiles": lambda p: p.replace(feedforward_tile=100),
        "recomputed": lambda p: p.replace(gradient_checkpointing="full"),
        "recomputed in part": lambda p: p.replace(gradient_checkpointing="selective"),
    }
    for seed in (11, 12, 13):
        for moe in (False, True):
            for dtype in ("float32", "bfloat16"):
                for name, way in ways.items():
                    words = f"{name}, {dtype}, {'moe' if moe else 'dense'}, {seed}"
                    faster = name in FASTER
                    case = Case(words, "right", dtype, moe, seed, faster, 3.0)
                    yield case, None, way


def second_set() -> Iterator[tuple[Case, Hook | None, Callable[[Plan], Plan] | None]]:
    """The mutants that decide."""
    import guard_mutants_second

    yield from guard_mutants_second.cases()


SETS = {"first": first_set, "second": second_set, "right": right_set}


def tried(
    case: Case, hook: Hook | None, change: Callable[[Plan], Plan] | None, device: str
) -> dict[str, Any]:
    """Measure and judge a case."""
    started = time.monotonic()
    plan = plan_of(case, device)
    with_it = plan if change is None else change(plan)
    subject = Mutated(with_it)
    noting(subject)
    if hook is not None:
        subject.prepare = hook  # type: ignore[assignment,method-assign]
        hook(subject)
    baseline = Waiting(plan)
    baseline.factor = case.slower
    found = measure(
        case.name,
        ProgramSubject(reference_plan(plan)),
        baseline,
        subject,
        batches_of(plan, THRESHOLDS.batches),
        faster=case.faster,
        steps=plan.steps,
        clock=lambda: clock(baseline),
    )
    if found.failure:
        raise RuntimeError(f"{case.name}: {found.failure}")  # a mistake in the case
    verdict = judge([found])[case.name]
    return {
        "name": case.name,
        "kind": case.kind,
        "trusted": verdict.trusted,
        "text": verdict.text,
        "p": verdict.p,
        "speed": verdict.speed,
        "slope": verdict.slope,
        "seconds": round(time.monotonic() - started, 2),
    }


def summed_up(lines: list[dict[str, Any]]) -> str:
    """Rates with their exact bounds."""
    said = []
    for kind, word, counted in (
        ("mutant", "caught", False),
        ("right", "refused", False),
    ):
        some = [one for one in lines if one["kind"] == kind]
        hits = sum(one["trusted"] is counted for one in some)
        if some:
            low, high = exact_bounds(hits, len(some))
            said.append(
                f"{kind}: {hits} of {len(some)} {word}, {hits / len(some):.1%} "
                f"(95% bounds {low:.1%} to {high:.1%})"
            )
    return "\n".join(said)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--set", choices=SETS, nargs="+", default=list(SETS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parent))
    lines = []
    if args.out.exists():
        lines = [json.loads(one) for one in args.out.read_text().splitlines()]
    done = {one["name"] for one in lines}
    end = time.monotonic() + 60 * args.minutes
    for name in args.set:
        for case, hook, change in SETS[name]():
            if case.name in done or time.monotonic() > end:
                continue
            line = tried(case, hook, change, args.device) | {"set": name}
            lines.append(line)
            with open(args.out, "a") as file:
                file.write(json.dumps(line) + "\n")
            print("trusted" if line["trusted"] else "refused", case.name, line["text"],
                  flush=True)  # fmt: skip
    for name in args.set:
        print(f"[{name}]", summed_up([x for x in lines if x["set"] == name]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
