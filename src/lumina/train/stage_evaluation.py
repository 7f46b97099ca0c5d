"""What a stage of a run did to what earlier stages had learned.

Every evaluation judges the held-out rows of all sources, those that the stage does not
train on among them. So the evaluation at the end of each stage has the loss on the data
of all earlier ones, and what follows is arithmetic on rows that are written anyway.

Forgetting is that of Chaudhry et al. 2018 (arXiv:1801.10112, section 4), backward
transfer that of Lopez-Paz and Ranzato 2017 (arXiv:1706.08840, section 3), both with
losses in nats in place of accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lumina.plan.plan import Plan
from lumina.state.json_lines import read_json_lines
from lumina.state.left_behind import leave_results
from lumina.state.run_directory import RunDirectory
from lumina.train.recorder import Recorder


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: of the phase.
        step: completed steps at its last evaluation.
        losses: source -> held-out loss there.
        trained: the sources that it trained on.
    """

    name: str
    step: int
    losses: Mapping[str, float]
    trained: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What became of a source that an earlier stage was the last to train on.

    Attributes:
        stage: that one.
        then: held-out loss at its end.
        now: held-out loss at the end of the newest stage.
        forgetting: now less the lowest loss at the end of a stage from that one on;
            above zero something was lost.
        backward_transfer: then less now; above zero later stages have helped.
    """

    stage: str
    then: float
    now: float
    forgetting: float
    backward_transfer: float


@dataclass(frozen=True)
class StageEvaluation:
    """How the newest stage of a run left what earlier ones had learned.

    Attributes:
        stages: all so far, the newest last.
        sources: source -> what became of it.
    """

    stages: tuple[Stage, ...]
    sources: dict[str, Kept] = field(default_factory=dict)

    @property
    def forgetting(self) -> float | None:
        """The mean over sources; None where no earlier stage has one to itself."""
        each = [one.forgetting for one in self.sources.values()]
        return sum(each) / len(each) if each else None

    @property
    def backward_transfer(self) -> float | None:
        """The mean over sources; None likewise."""
        each = [one.backward_transfer for one in self.sources.values()]
        return sum(each) / len(each) if each else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        means = {
            "forgetting": self.forgetting,
            "backward_transfer": self.backward_transfer,
        }
        return asdict(self) | means


def stages_of(
    rows: Sequence[Mapping[str, Any]],
    begins: Sequence[tuple[str, int]],
    sources: Sequence[str],
) -> tuple[Stage, ...]:
    """The stages of a run from its rows; one without an evaluation is left out.

    Args:
        rows: of metrics.jsonl.
        begins: name of each stage, and completed steps when it began.
        sources: of the run.
    """
    found = []
    for (name, begin), end in zip(
        begins, [*(step for _, step in begins[1:]), float("inf")], strict=True
    ):
        mine = [row for row in rows if begin < row["step"] <= end]
        judged = [
            row
            for row in mine
            if any(row.get(f"source.{one}.eval_loss") is not None for one in sources)
        ]
        if not judged:
            continue
        losses = {
            one: float(judged[-1][key])
            for one in sources
            if judged[-1].get(key := f"source.{one}.eval_loss") is not None
        }
        trained = tuple(
            one
            for one in sources
            if any(row.get(f"source.{one}.loss") is not None for row in mine)
        )
        found.append(Stage(name, int(judged[-1]["step"]), losses, trained))
    return tuple(found)


def evaluated(stages: Sequence[Stage]) -> StageEvaluation:
    """What the newest of some stages did to the sources of earlier ones."""
    kept: dict[str, Kept] = {}
    newest = stages[-1]
    for source, now in newest.losses.items():
        learned = [n for n, one in enumerate(stages) if source in one.trained]
        if not learned or learned[-1] == len(stages) - 1:
            continue
        since = stages[learned[-1] : -1]
        losses = [one.losses[source] for one in since if source in one.losses]
        if not losses or source not in since[0].losses:
            continue
        then = since[0].losses[source]
        kept[source] = Kept(since[0].name, then, now, now - min(losses), then - now)
    return StageEvaluation(tuple(stages), kept)


def tell_stages(plan: Plan, directory: RunDirectory, recorder: Recorder) -> None:
    """At the end of a stage, put on record what became of earlier ones.

    Args:
        plan: of the stage; nothing is told of a run that has none, or no sources.
        directory: of the run.
        recorder: where it is told.

    Raises:
        LuminaError: E106 or E204 where the report's figures cannot be written.
    """
    if not (plan.phases and plan.sources):
        return
    begins = [(plan.phases[0], 0)]
    for event in read_json_lines(directory.path / "events.jsonl"):
        if event["kind"] == "phase_begins":
            name, step = event["data"]["phase"], int(event["step"])
            # A stage that was begun again counts once.
            begins = [one for one in begins if one[0] != name] + [(name, step)]
    rows = read_json_lines(directory.path / "metrics.jsonl")
    stages = stages_of(rows, begins, plan.sources)
    if len(stages) < 2 or stages[-1].name != plan.phase:
        return
    found = evaluated(stages)
    if not found.sources:
        return
    each = "; ".join(
        f"{source} (last trained on in {one.stage}) {one.then:.4f} then, {one.now:.4f} "
        f"now, forgetting {one.forgetting:+.4f}"
        for source, one in found.sources.items()
    )
    recorder.event(
        "stage_evaluation",
        "info",
        None,
        f"after the phase {plan.phase}, held-out loss of earlier phases' sources: "
        f"{each}; mean backward transfer {found.backward_transfer:+.4f}",
        step=stages[-1].step,
        **found.to_dict(),
    )
    leave_results(
        directory,
        {
            f"forgetting after {plan.phase}": f"{found.forgetting:+.4f} nats a token",
            f"backward transfer after {plan.phase}": f"{found.backward_transfer:+.4f} "
            "nats a token",
        },
    )
