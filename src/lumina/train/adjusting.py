"""What a running job can be asked, and asked to change, from Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.train.adjusting_depths import AdjustingDepths
from lumina.train.adjusting_experts import AdjustingExperts
from lumina.train.aliases import with_aliases
from lumina.train.orchestrator.status import adaptive_status

if TYPE_CHECKING:
    pass


PARAM_GROUP_KEYS = {
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
}
"""Key of an optimizer's groups -> the control that sets it."""


class Adjusting(AdjustingDepths, AdjustingExperts):
    """The methods of a `Trainer` that read a running job, or change it by a control.

    Those that change something return the id of the request; it takes effect before
    the next step that all ranks agree on.
    """

    def get_current_metrics(self) -> dict[str, Any]:
        """The newest finished row, under its own and the documents' names."""
        return with_aliases(self._loop.recorder.last_row if self._loop else {})

    def adjust_learning_rate(self, value: float, reason: str = "asked for") -> int:
        """Set the learning rate from the next step on; the schedule scales with it."""
        return self._request("learning_rate", value, reason)

    def emergency_lr_reduction(self, factor: float = 10.0) -> int:
        """Divide the learning rate by `factor`."""
        loop = self._running()
        rate = loop.program.live.learning_rate.item() / factor
        return self._request("learning_rate", rate, f"emergency: divided by {factor:g}")

    def rollback_steps(
        self,
        num_steps: int,
        reason: str = "asked for",
        *,
        skip_data: bool = True,
        learning_rate_factor: float = 1.0,
    ) -> int:
        """Go back to the best model of the last `num_steps` steps.

        The best is that of the lowest held-out loss among those that were saved or
        are held in memory. Weights, optimizer, schedule, counters and metrics are
        those of its step again.

        Args:
            num_steps: how far back, at most.
            reason: for the journal.
            skip_data: pass over the rows that were trained on since then.
            learning_rate_factor: what the learning rate is multiplied by from there.
        """
        value = {
            "steps": num_steps,
            "skip_data": skip_data,
            "learning_rate_factor": learning_rate_factor,
            "best": True,
        }
        return self._request("rollback", value, reason)

    def adjust_weight_decay(self, value: float, reason: str = "asked for") -> int:
        """Set the weight decay from the next step on."""
        return self._request("weight_decay", value, reason)

    def adjust_dropout(self, value: float, reason: str = "asked for") -> int:
        """Set the dropout of the blocks from the next step on; 0 switches it off."""
        return self._request("dropout", value, reason)

    def adjust_label_smoothing(self, value: float, reason: str = "asked for") -> int:
        """Set the share of a label that all tokens have alike from the next step on."""
        return self._request("label_smoothing", value, reason)

    def _update_optimizer_param_groups(
        self, key: str, value: Any, reason: str = "asked for"
    ) -> int:
        """Set what the optimizer of all tensors reads, by torch's name for it.

        Args:
            key: "lr" or "learning_rate", "weight_decay", or "max_grad_norm".
            value: the value; what groups multiply by stays.
            reason: for the journal.

        Raises:
            LuminaError: E005 for a key that cannot change while a run trains.
        """
        control = PARAM_GROUP_KEYS.get(key)
        if control is None:
            raise LuminaError(
                "E005",
                f"{key} cannot be changed while a run trains",
                f"keys are {', '.join(PARAM_GROUP_KEYS)}; others are set for a new run",
            )
        return self._request(control, value, reason)

    def adjust_max_grad_norm(self, value: float, reason: str = "asked for") -> int:
        """Set the clipping threshold from the next step on; 0 clips nothing."""
        return self._request("max_grad_norm", value, reason)

    def adjust_source_weights(
        self, value: dict[str, float], reason: str = "asked for"
    ) -> int:
        """Set the share of the rows that each source of a mixture gives."""
        return self._request("source_weights", value, reason)

    def adjust_batch_size(self, value: int, reason: str = "asked for") -> int:
        """Set sequences per device and forward; the global batch stays."""
        return self._request("micro_batch_size", value, reason)

    def _recreate_dataloader(
        self, dataset: object = None, reason: str = "asked for"
    ) -> int:
        """Make anew what reads and queues the rows, from where the run is.

        The rows stay the same ones, in their order: they are a function of the seed,
        the data and the position. Another data set belongs to another run.

        Args:
            dataset: None, or the rows that the run reads.
            reason: for the journal.

        Raises:
            LuminaError: E002 for other rows.
        """
        if dataset is not None and dataset is not self._running().stream:
            raise LuminaError(
                "E002",
                "the rows of a run are a function of its data, which was decided when "
                "it began",
                "train on with other data by --init-from, or by --phases",
            )
        return self._request("dataloader", "again", reason)

    def _calculate_throughput(self) -> float:
        """Tokens of all processes in a second, in the newest row; 0 before any."""
        row = self._loop.recorder.last_row if self._loop else {}
        return float(row.get("tokens_per_second") or 0.0)

    def get_adaptive_status(self) -> dict[str, Any]:
        """What the orchestrator has decided so far, or had when the run ended.

        `adaptive_decisions_made` counts the decisions, `meta_learning_runs` the earlier
        runs that they rest on, `monitoring_active` says whether a run is being watched
        now, and `recent_decisions` has the newest 20: `type`, `reasoning`,
        `confidence`, `step`, `anomaly`, `mode`, the control with its old and new value,
        and the `outcome` where it was measured.

        `phase`, `health_score` and `predictions` are what the checks say of the run:
        predictions of the loss, with an interval that holds the final loss in 9 cases
        of 10 or the `reason` why there is none, and of what may end the run. They are
        None where nothing watches.
        """
        if self._loop is None:
            return dict(self._last_status)
        return adaptive_status(self._loop.plan, self._loop.rules.status())
