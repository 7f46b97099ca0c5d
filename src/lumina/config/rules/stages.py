"""Training modes and phases: what goes together with them, and what does nothing."""

from __future__ import annotations

from lumina.config.phase_entries import OF_HYBRID, phases_of
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.config.source_entries import source_paths

_PATHS = {
    "base_training_paths": "sources",
    "finetuning_paths": "sources",
    "base_eval_paths": "source_eval_data",
    "finetuning_eval_paths": "source_eval_data",
}
"""Options that name the two sources, and the option that names any sources."""

_OF_ADAPTIVE = (
    "min_base_ratio", "max_base_ratio", "adjustment_window",
    "base_perplexity_threshold", "task_accuracy_threshold",
)  # fmt: skip
"""Options of shares that adapt."""

_SHARES = ("source_weights", "source_temperature", "source_schedule")


def check(settings: Settings) -> None:
    """Refuse modes without the data that they take turns with, and broken phases.

    Raises:
        LuminaError: E002, E004 or E005.
    """
    _check_paths(settings)
    _check_mode(settings)
    _check_interleaving(settings)
    if settings.stages.context_schedule:
        _check_context(settings)
    phases = phases_of(settings)
    if not phases:
        return
    stages = settings.stages
    if stages.phases and stages.training_mode:
        refuse(
            f"training_mode {stages.training_mode} is for a whole run, and phases "
            "divide it",
            "set training_mode in a phase, or leave one of the two out",
        )
    for leaf in ("expert_id", "stop_after_epoch", "iterate", "tasks"):
        if settings.get(leaf):
            refuse(
                f"{leaf} {settings.get(leaf)} does not go with phases",
                f"leave {leaf} out, or train without phases",
            )
    names = source_paths(settings)
    for phase in phases:
        mode = phase.options.get("training_mode")
        if mode is not None and len(names) != 2:
            refuse(
                f"the phase {phase.name} has training_mode {mode}, which takes turns "
                f"with two sources, and there are {len(names)}",
                "name --base-training-paths and --finetuning-paths",
            )
        if not names and (given := [leaf for leaf in _SHARES if leaf in phase.options]):
            refuse(
                f"the phase {phase.name} sets {given[0]}, and there are no sources",
                "name --sources",
            )
        learned = settings.model.pos_encodings == "learned"
        if learned and "seq_length" in phase.options:
            refuse(
                f"the phase {phase.name} sets seq_length, and the table of learned "
                "positions is as long as a row",
                "use pos_encodings rope, or leave seq_length out of the phase",
            )


def _check_context(settings: Settings) -> None:
    stages = settings.stages
    given = "phases" if stages.phases else f"training_mode {stages.training_mode}"
    if stages.phases or stages.training_mode == "hybrid":
        refuse(
            f"context_schedule and {given} both divide the run",
            "keep one of the two; a phase may set seq_length and phase_optimizer=keep",
        )
    if settings.model.pos_encodings == "learned":
        refuse(
            "context_schedule makes rows longer, and the table of learned positions is "
            "as long as a row",
            "use pos_encodings rope",
        )


def _check_interleaving(settings: Settings) -> None:
    stages = settings.stages
    if stages.min_base_ratio > stages.max_base_ratio:
        refuse(
            f"min_base_ratio {stages.min_base_ratio:g} is above max_base_ratio "
            f"{stages.max_base_ratio:g}",
            "the share of base rows moves between the two",
        )
    strategy, schedule = stages.interleaving_strategy, settings.mixture.source_schedule
    if strategy == "scheduled" and not schedule:
        refuse(
            "interleaving_strategy is scheduled, and there is no schedule",
            "name --source-schedule 0:0.8 1000:0.6 5000:0.4",
        )
    if strategy in ("fixed", "adaptive") and schedule:
        refuse(
            f"interleaving_strategy {strategy} does not go with source_schedule",
            "keep one of the two",
        )


def _check_paths(settings: Settings) -> None:
    for leaf, other in _PATHS.items():
        if settings.get(leaf) and settings.get(other):
            refuse(
                f"{leaf} and {other} both name sources",
                f"keep one of the two: {leaf} is short for {other}",
            )


def _check_mode(settings: Settings) -> None:
    mode = settings.stages.training_mode
    if mode is None:
        return
    names = list(source_paths(settings))
    if mode in ("hybrid", "interleaved") and len(names) != 2:
        refuse(
            f"training_mode {mode} takes turns with two sources, and there are "
            f"{len(names)}",
            "name --base-training-paths and --finetuning-paths",
        )
    if names and len(names) > 2:
        refuse(
            f"training_mode {mode} is for two sources, and there are {len(names)}",
            "use --source-weights, or --phases",
        )
    wanted = {"base_only": "base", "finetuning_only": "finetuning"}.get(mode)
    if len(names) == 1 and names[0] in ("base", "finetuning") and names[0] != wanted:
        refuse(
            f"training_mode {mode} has no data: the only source is {names[0]}",
            f"name --{wanted}-{'training-' if wanted == 'base' else ''}paths",
        )
    for leaf in _SHARES if len(names) == 2 else ():
        allowed = leaf == "source_schedule" and mode == "interleaved"
        if settings.get(leaf) and settings.is_chosen(leaf) and not allowed:
            refuse(
                f"{leaf} and training_mode {mode} both say the shares of the sources",
                "keep one of the two",
            )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of modes and phases without effect, and why."""
    stages, unused = settings.stages, dict[str, str]()
    for paths, held_out in (
        ("base_training_paths", "base_eval_paths"),
        ("finetuning_paths", "finetuning_eval_paths"),
    ):
        if not settings.get(paths):
            unused[held_out] = f"there are no {paths}"
    if not phases_of(settings) or stages.context_schedule:
        unused["phase_optimizer"] = "no phase follows another, or all of them keep it"
    if stages.context_schedule:
        unused["seq_length"] = "context_schedule says the length of a row"
    if stages.training_mode != "hybrid":
        unused |= dict.fromkeys(OF_HYBRID, "training_mode is not hybrid")
    phases = phases_of(settings)
    mixed = stages.training_mode == "interleaved" or any(
        phase.options.get("training_mode") in ("hybrid", "interleaved")
        for phase in phases
    )
    if not mixed:
        why = "no part of the run mixes the two sources"
        unused["base_finetuning_ratio"] = unused["interleaving_strategy"] = why
    strategies = {phase.options.get("interleaving_strategy") for phase in phases}
    if not mixed or "adaptive" not in {stages.interleaving_strategy, *strategies}:
        why = "no part of the run has the interleaving_strategy adaptive"
        unused |= dict.fromkeys(_OF_ADAPTIVE, why)
    transitions = {phase.options.get("phase_transition") for phase in phases}
    if not phases:
        unused["phase_transition"] = "the run has no phases"
    if not phases or "convergence" not in {stages.phase_transition, *transitions}:
        why = "no phase ends by convergence"
        unused |= dict.fromkeys(("convergence_window", "convergence_threshold"), why)
    if mixed and settings.mixture.source_schedule:
        unused["base_finetuning_ratio"] = "source_schedule says the shares"
    return unused


RULE = Rule(check=check, without_effect=without_effect)
