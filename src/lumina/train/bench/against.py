"""Lumina beside another trainer: the same losses first, then turns A B B A."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.config import Config, Source
from lumina.data.kinds import names_data
from lumina.data.prefetch import Prefetcher
from lumina.ending import closed_after
from lumina.errors import LuminaError
from lumina.model.registry import load_plugins
from lumina.observe.console import Console
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.state.huggingface.export import export_folder
from lumina.state.huggingface.formats import choose
from lumina.train.bench.peer import Peer, chosen_peer
from lumina.train.bench.process import Asked, ContestantProcess
from lumina.train.bench.rows import DISTINCT, check_text, random_rows
from lumina.train.bench.timing import ratio_interval
from lumina.train.bench.training import facts_of, figures
from lumina.train.bench.work import Work, sharpness_of
from lumina.train.preparation import Preparation
from lumina.train.profiling.session import prepared_for

UNTIMED = 3
"""Steps at the beginning of a turn in which the allocator takes its memory again."""

TOKENS = 1e-4
"""How far tokens' losses may be from the reference, both in float32: the root mean
square difference as a part of how the losses spread over tokens. Another mask, another
angle of the positions or a missing norm give a tenth and more."""

LOSS = {"float32": 1e-4, "bfloat16": 5e-3}
"""How far the first step's loss may be from the reference's, as a part of it."""

NORM = {"float32": 2e-3, "bfloat16": 3e-2}
"""How far the norms of the first step's gradients may be from each other."""

BOUND = "Student's t over the logarithms of the blocks' ratios"

Start = Callable[[Path, str], Asked]
"""Starts the process of a contestant of a comparison's folder."""


@dataclass(frozen=True)
class Amounts:
    """How much is measured.

    Attributes:
        warm_up: steps of each contestant before the first block.
        blocks: of four turns.
        steps: timed steps of a turn.
    """

    warm_up: int
    blocks: int
    steps: int


def compare_trainers(
    config: Config,
    peers: Sequence[str],
    *,
    synthetic: bool,
    warm_up: int,
    blocks: int,
    steps: int,
    tell: Callable[[str], None],
    stopped: Callable[[], bool],
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run Lumina and each peer in turn on the same weights and rows.

    Each contestant has a process of its own that stays. All begin with the same
    float32 weights and see the same rows in the same order. A block is four turns, A B
    B A, of a few untimed and `steps` timed steps on rows of the block's own seed; it
    gives one ratio of the mean times, so that a drift of the clock falls on both.

    Args:
        config: of the training.
        peers: NAME or NAME+OPTION.
        synthetic: train on random tokens although data is named.
        warm_up: steps of each before the first block.
        blocks: how many.
        steps: timed steps of a turn.
        tell: shows a line of progress.
        stopped: asked between turns; once true, whole blocks are given.
        folder: of weights and rows; default: a temporary one.

    Raises:
        LuminaError: E003 for a peer that is not installed, E002 for a training that
            it cannot do, E307 where it gives other losses, E308 where its process
            ended.
    """
    load_plugins(config.parts.plugins)  # peers may be registered there
    chosen = [(text, chosen_peer(text)[0]) for text in peers]
    random = synthetic or not names_data(config)
    prepared = _prepared(config, random, blocks)
    plan = prepared.plan
    for _, peer in chosen:
        peer.require(plan)
    check_text(plan)
    choose(plan.spec)  # E002 for a model that no folder holds
    amounts = Amounts(warm_up, blocks, steps)
    with tempfile.TemporaryDirectory(prefix="lumina-bench-") as temporary:
        work = Work(
            folder or Path(temporary),
            plan,
            tuple(config.parts.plugins),
            1.0 if prepared.start.weights else sharpness_of(plan.spec),
        )
        if prepared.start.weights:
            weights = prepared.start.weights
            export_folder((weights.spec, weights.source.tensor), None, work.model)
        work.save(_rows(prepared, config, random, blocks))
        tell("the reference: first weights, and the losses of the first rows")
        reference = ContestantProcess(work.folder, "reference")
        try:
            reference.answer()
        finally:
            reference.close()
        found = [
            compare_one(work, peer, text, prepared.environment, amounts, tell, stopped)
            for text, peer in chosen
            if not stopped()
        ]
    return {
        "kind": "train against",
        **facts_of(plan, prepared.environment),
        "rows": "random tokens" if random else "data, each row as one document",
        "tokens_per_step": plan.global_batch_size * plan.spec.seq_length,
        "warm_up": warm_up,
        "blocks": blocks,
        "steps_per_turn": steps,
        "seeds": [config.get("seed") + block for block in range(blocks)],
        "peers": found,
        "interrupted": stopped(),
    }


def compare_one(
    work: Work,
    peer: Peer,
    name: str,
    machine: Environment,
    amounts: Amounts,
    tell: Callable[[str], None],
    stopped: Callable[[], bool] = lambda: False,
    start: Start = ContestantProcess,
) -> dict[str, Any]:
    """Lumina beside one peer; arguments as of `compare_trainers`."""
    sides = _started(work, name, start)
    with closed_after(*(side.close for side in sides)):
        tell(f"{name}: the same losses?")
        same = check_same(sides, name, peer.version, work.plan)
        tell(f"{name}: {amounts.warm_up} steps to warm up")
        for side in sides:
            side.ask(do="turn", untimed=amounts.warm_up, steps=0)
        turns: list[list[dict[str, Any]]] = [[], []]
        ratios: list[float] = []
        for block in range(amounts.blocks):
            taken = _block(sides, block, amounts.steps, stopped)
            if taken is None:
                break
            means = [
                statistics.fmean(s for turn in side for s in turn["seconds"])
                for side in taken
            ]
            ratios.append(means[1] / means[0])
            for mine, more in zip(turns, taken, strict=True):
                mine += more
            tell(f"{name}: block {block + 1}: lumina {ratios[-1]:.3f}x as fast")
    return {
        "peer": name,
        "version": peer.version,
        "same": same,
        "ratio": _ratio(ratios),
        "lumina": _side(work.plan, machine, turns[0]),
        "other": _side(work.plan, machine, turns[1]),
        "losses_apart": _losses_apart(turns),
    }


def check_same(
    sides: Sequence[Asked], name: str, version: str, plan: Plan
) -> dict[str, Any]:
    """Both compute the same function, and train on the same loss.

    Tokens' losses are compared in float32 with the reference. The first step of
    training is compared as it will be timed: its loss with the reference's, and the
    norms of the gradients with each other.

    Args:
        sides: Lumina and the peer.
        name: the peer's.
        version: the peer's.
        plan: what both do.

    Raises:
        LuminaError: E307, with what differs by how much.
    """
    found = sides[1].ask(do="same")
    firsts = []
    for side in sides:
        side.ask(do="rows", seed=0)
        firsts.append(side.ask(do="turn", untimed=1, steps=0))
    losses = [one["losses"][0] for one in firsts]
    norms = [one["norms"][0] for one in firsts]
    wanted = found["reference"]
    allowed = LOSS[plan.compute_dtype]
    wrong = []
    if not found["apart"] <= TOKENS:
        wrong.append(
            f"tokens' losses differ by {found['apart']:.2g} of their spread in "
            f"float32, and {TOKENS:g} is allowed"
        )
    for who, loss in zip(("lumina", name), losses, strict=True):
        if not abs(loss - wanted) <= allowed * abs(wanted):
            wrong.append(
                f"the first training loss of {who} is {loss:.5f}, and the reference "
                f"has {wanted:.5f}"
            )
    # Lumina's balance loss has a gradient that other trainers leave out by default.
    same_gradient = plan.spec.moe is None
    if same_gradient and not (
        abs(norms[0] - norms[1]) <= NORM[plan.compute_dtype] * abs(norms[0])
    ):
        wrong.append(
            f"the norms of the first gradients are {norms[0]:.5g} here and "
            f"{norms[1]:.5g} there"
        )
    if wrong:
        raise LuminaError(
            "E307",
            f"{name} {version} does not compute what Lumina does, so their speeds "
            f"are not compared: {'; '.join(wrong)}",
            "compare with --precision fp32, or a smaller shape on the CPU, to see "
            "which of them is wrong",
        )
    return {
        "tokens": found["apart"],
        "tokens_allowed": TOKENS,
        "losses": losses,
        "reference": wanted,
        "losses_allowed": allowed,
        "gradient_norms": norms,
        "gradient_norms_compared": same_gradient,
        "gradient_norms_allowed": NORM[plan.compute_dtype],
    }


def _started(work: Work, name: str, start: Start) -> list[Asked]:
    """Lumina's process and the peer's, one after the other."""
    sides: list[Asked] = []
    try:
        for contestant in ("lumina", name):
            side = start(work.folder, contestant)
            sides.append(side)
            if isinstance(side, ContestantProcess):
                side.answer()
    except BaseException:
        for side in sides:
            side.close()
        raise
    return sides


def _block(
    sides: Sequence[Asked], block: int, steps: int, stopped: Callable[[], bool]
) -> list[list[dict[str, Any]]] | None:
    """Four turns, A B B A, on the rows of a block; None where it was interrupted."""
    for side in sides:
        side.ask(do="rows", seed=block)
    taken: list[list[dict[str, Any]]] = [[], []]
    for place in (0, 1, 1, 0):
        if stopped():
            return None
        taken[place].append(sides[place].ask(do="turn", untimed=UNTIMED, steps=steps))
    return taken


def _ratio(ratios: list[float]) -> dict[str, Any] | None:
    if not ratios:
        return None
    found = ratio_interval(ratios)
    return {
        "speed": ratios[0] if found is None else found[0],
        "interval": None if found is None else list(found[1:]),
        "bound": BOUND,
        "blocks": ratios,
    }


def _side(
    plan: Plan, machine: Environment, turns: list[dict[str, Any]]
) -> dict[str, Any]:
    """The figures of one contestant over all its turns."""
    seconds = [s for turn in turns for s in turn["seconds"]]
    found = figures(plan, machine, seconds)
    if not turns:
        return found
    last = turns[-1]
    return found | {
        "losses": [loss for turn in turns for loss in turn["losses"]],
        "memory": last["memory"],
        "gpu": last["gpu"],
        "gpu_by_turn": [turn["gpu"] for turn in turns],
    }


def _losses_apart(turns: list[list[dict[str, Any]]]) -> float | None:
    """The most by which the losses of the same step differ, as a part of them."""
    mine, theirs = (
        [loss for turn in side for loss in turn["losses"]] for side in turns
    )
    return max(
        (abs(a - b) / abs(a) for a, b in zip(mine, theirs, strict=True)), default=None
    )


def _prepared(config: Config, random: bool, blocks: int) -> Preparation:
    """The Plan of a training whose rate stays, so that both have the same."""
    asked = {"lr_scheduler": "constant", "save_every_n_batches": 0}
    settings = config.override(asked, Source("flag", "comparison"))
    console = Console(live=False, stream=_nowhere())
    return prepared_for(settings, 10_000, console, without_data=random)


def _nowhere() -> Any:
    import io

    return io.StringIO()


def _rows(prepared: Preparation, config: Config, random: bool, blocks: int) -> Tensor:
    """[blocks, steps, rows of a step, S + 1] int64."""
    plan = prepared.plan
    if random:
        seed = config.get("seed")
        return torch.stack([random_rows(plan, seed + n) for n in range(blocks)])
    feed = Prefetcher(
        prepared.stream, prepared.stream.start, micro_batch_size=plan.micro_batch_size
    )
    try:
        return torch.stack([_taken(plan, feed) for _ in range(blocks)])
    finally:
        feed.close()


def _taken(plan: Plan, feed: Prefetcher) -> Tensor:
    """Rows of data, each as one document: what no packing mask would change.

    A row has one token more than the model reads; the last is the label of the last
    position, or where the data has none there, the row's first token.
    """
    steps = []
    for _ in range(DISTINCT):
        batches, _ = feed.next()
        if batches is None:
            raise LuminaError(
                "E105",
                "the data ends before the comparison has its rows",
                "name more data, leave it out, or add --synthetic",
            )
        ids = torch.cat([one.input_ids for one in batches.micro_batches])
        labels = torch.cat([one.labels for one in batches.micro_batches])
        last = torch.where(labels[:, -1] >= 0, labels[:, -1], ids[:, 0])
        steps.append(torch.cat([ids, last[:, None]], dim=1))
    return torch.stack(steps)
