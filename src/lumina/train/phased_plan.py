"""What the phases of a run add to the Plan of one of them, and what they forbid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lumina.config import Config, Source
from lumina.config.phase_entries import Phase, names_in_words
from lumina.data.kind import Data, Rows
from lumina.errors import LuminaError
from lumina.plan.plan import Plan
from lumina.train.phases import Place, phase_config, schedule_steps, with_mode

Draft = Callable[[Config], Plan]
"""Makes a Plan for settings, on the machine and for the rows of the run."""


def with_one_schedule(
    plan: Plan, whole: Config, place: Place, data: Data, rows: Rows, draft: Draft
) -> Plan:
    """The Plan of a phase that only makes rows longer: the rate moves on.

    Args:
        plan: of the phase.
        whole: the settings of the run.
        place: which phase it is.
        data: of the run.
        rows: of the phase.
        draft: makes a Plan.
    """
    first = rows.sequence.rows_per_epoch
    if whole.stages.context_schedule and place.index:
        first = data.rows(phase_config(whole, 0)).sequence.rows_per_epoch
    steps = schedule_steps(whole, first)
    if steps is None:
        return plan
    config = whole.override({"context_schedule": ()}, Source("default"))
    config = config.override({"epochs": None}, Source("default"))
    config = config.override({"steps": steps}, Source("flag", "context"))
    of_run = draft(with_mode(config))
    why = f"one schedule over the {steps:,} steps of all lengths of a row"
    return plan.replace(
        schedule_steps=steps,
        schedule_offset=0,
        warmup_steps=of_run.warmup_steps,
        decay_steps=of_run.decay_steps,
        reasons=plan.reasons | {"schedule_steps": why},
    )


def in_phase(plan: Plan, phases: Sequence[Phase], place: Place) -> Plan:
    """The Plan, which says of which phase it is; unchanged where there are none."""
    if not phases:
        return plan
    why = names_in_words(phases)
    return plan.replace(
        phases=tuple(phase.name for phase in phases),
        phase=phases[place.index].name,
        phase_begin=place.begin,
        reasons=plan.reasons
        | {"phases": why, "phase": "where the run is", "phase_begin": "steps done"},
    )


def check_later_phases(
    whole: Config, phases: Sequence[Phase], place: Place, draft: Draft
) -> None:
    """Refuse now what a later phase of the run would be refused for.

    Raises:
        LuminaError: as that phase would, with its name.
    """
    for index in range(place.index + 1, len(phases)):
        try:
            config = phase_config(whole, index)
            if config.train.epochs is not None:  # they need its rows
                config = config.override({"epochs": None}, Source("default"))
                config = config.override({"steps": 10**6}, Source("flag"))
            draft(config)
        except LuminaError as error:
            name = phases[index].name
            raise LuminaError(
                error.code, f"the phase {name}: {error.message}", error.hint
            ) from error


def check_preservation(plan: Plan, *, begins_trained: bool) -> None:
    """Refuse to keep the knowledge of random weights, and to read no base text.

    Args:
        plan: of the phase or run.
        begins_trained: it begins with weights that were trained.

    Raises:
        LuminaError: E002.
    """
    if plan.keeps == "outputs" and plan.sources[0] in plan.watched:
        raise LuminaError(
            "E002",
            f"preservation_method outputs reads rows of {plan.sources[0]}, and "
            f"{'the phase ' + plan.phase if plan.phase else 'the run'} takes none",
            "give it a share (--training-mode interleaved or --source-weights), or "
            "use --preservation-method weights",
        )
    if plan.preservation and not begins_trained:
        raise LuminaError(
            "E002",
            "preserve_base_knowledge keeps the weights that training begins with, "
            "and this run begins with random ones",
            "name --init-from, or train in phases: it then holds from the second one "
            "on",
        )
