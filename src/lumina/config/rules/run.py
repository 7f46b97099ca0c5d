"""The run's folder, its data and its start: what contradicts, what does nothing."""

from __future__ import annotations

from pathlib import Path

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError
from lumina.features import reason_lacking


def check(settings: Settings) -> None:
    """Refuse a name that is no folder's, and two ways to start at once.

    Raises:
        LuminaError: E005 for the name, E002 for the two ways.
    """
    name = settings.run.experiment_name
    if name is not None and (not name.strip(". ") or Path(name).name != name):
        raise LuminaError(
            "E005",
            f"experiment_name cannot be {name!r}",
            "it names one folder below runs/; use run_dir for a path",
        )
    for leaf in ("resume", "init_from"):
        if settings.run.branch_from and settings.get(leaf):
            refuse(
                f"branch_from and {leaf} are both set",
                "branch_from begins a run that goes on from another one's checkpoint; "
                "name one of the two",
            )
    if settings.run.resume and settings.train.init_from:
        refuse(
            "resume and init_from are both set",
            "resume goes on with a run; init_from starts a new one from its weights",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of data and of the run's folder without effect, and why."""
    unused: dict[str, str] = {}
    if settings.data.eval_data:
        unused["eval_fraction"] = unused["eval_split"] = "eval_data is given"
    name, folder = settings.run.experiment_name, settings.run.run_dir
    if name is not None and folder is not None and Path(folder).name != name:
        unused["experiment_name"] = "run_dir is set"
    if settings.data.tokenizer is not None:
        unused["tokenizer_vocab_size"] = "a tokenizer is given"
    if settings.run.backup_dir is None:
        unused["backup_every_n_hours"] = "backup_dir is not set"
    if settings.data.eval_fraction == 0 and not settings.data.eval_data:
        nothing = "nothing is held out"
        unused |= {"best_metric": nothing, "best_is": nothing, "eval_split": nothing}
    if settings.run.report_samples == 0:
        unused["sample_every_n_batches"] = "report_samples is 0"
    elif why := reason_lacking(settings, "samples"):
        unused["sample_every_n_batches"] = why
    return unused


RULE = Rule(check=check, without_effect=without_effect)
