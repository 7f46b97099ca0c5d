"""What a running job can be asked, and asked to change, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lumina.errors import LuminaError
from lumina.model.spec import MoeSpec
from lumina.state.surgery import NOISE, told_apart
from lumina.train.aliases import with_aliases
from lumina.train.controls import control_named
from lumina.train.orchestrator.status import adaptive_status

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.train.loop import Loop


PARAM_GROUP_KEYS = {
    "lr": "learning_rate",
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
}
"""Key of an optimizer's groups -> the control that sets it."""


class Adjusting:
    """The methods of a `Trainer` that read a running job, or change it by a control.

    Those that change something return the id of the request; it takes effect before
    the next step that all ranks agree on.
    """

    config: Config
    _loop: Loop | None
    _last_status: Mapping[str, Any]

    def _running(self) -> Loop:
        """The loop under way.

        Raises:
            LuminaError: E002 when there is none.
        """
        raise NotImplementedError

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

    def adjust_mod_capacity(self, value: float, reason: str = "asked for") -> int:
        """Set the share of tokens that Mixture-of-Depths blocks take.

        A share of `mod_capacity_ladder` is live; for any other the program is
        assembled again.
        """
        return self._request("mod_capacity", value, reason)

    def get_mod_statistics(self) -> dict[str, Any]:
        """Means over the Mixture-of-Depths blocks, from the newest row; empty if none.

        `avg_selected_ratio` is the share of tokens that went through,
        `total_compute_savings` the percentage of the dense model's operations saved.
        """
        row = self._loop.recorder.last_row if self._loop else {}
        ratios = row.get("mod.selected_ratio")
        if not ratios:
            return {}
        return {
            "avg_selected_ratio": sum(ratios) / len(ratios),
            "total_compute_savings": row["mod.flops_reduction"],
        }

    def adjust_capacity_factor(self, value: float, reason: str = "asked for") -> int:
        """Set the places of each expert over the even share; needs capacity dispatch.

        Up to the factor the run began with this is live; beyond it, buffers grow, so
        the program is assembled again.
        """
        return self._request("capacity_factor", value, reason)

    def adjust_routing_temperature(
        self, value: float, reason: str = "asked for"
    ) -> int:
        """Set what the router's logits are divided by, from the next step on."""
        return self._request("routing_temperature", value, reason)

    def adjust_router_jitter(self, value: float, reason: str = "asked for") -> int:
        """Set the relative noise on the router's logits in training."""
        return self._request("router_jitter_noise", value, reason)

    def enable_expert_dropout(self, value: float, reason: str = "asked for") -> int:
        """Set the chance that an expert is hidden from a token; 0 switches it off."""
        return self._request("expert_dropout", value, reason)

    def add_expert(
        self,
        layer_idx: int | None = None,
        *,
        how: str = "busiest",
        noise: float = NOISE,
        reason: str = "asked for",
    ) -> int:
        """Give every routed layer one more expert, made from its existing ones.

        All routed layers have equally many experts, so all gain one.

        Args:
            layer_idx: the block that wants it: one that has experts, or None.
            how: "busiest" copies the most loaded expert, "mean" averages all.
            noise: spread of the noise on the copy, over that of the weights.
            reason: for the journal.
        """
        if layer_idx is not None:
            self._check_expert(layer_idx, 0)
        return self._request("add_expert", {"how": how, "noise": noise}, reason)

    def prune_expert(
        self,
        layer_idx: int | None = None,
        expert_idx: int | None = None,
        reason: str = "asked for",
    ) -> int:
        """Take one expert out of every routed layer; its tokens go to the others.

        All routed layers have equally many experts, so all lose one: the block
        `layer_idx` its expert `expert_idx`, the others their least loaded one.
        """
        if (layer_idx is None) != (expert_idx is None):
            raise LuminaError(
                "E005",
                "an expert is named by its block and its number in it",
                "name both, or neither to prune the least loaded one everywhere",
            )
        value = {}
        if layer_idx is not None and expert_idx is not None:
            self._check_expert(layer_idx, expert_idx)
            value = {str(layer_idx): expert_idx}
        return self._request("prune_expert", value, reason)

    def get_expert_statistics(self) -> dict[str, Any]:
        """The newest row, by block: load, entropy, violation, dead experts, drops."""
        loop = self._running()
        moe, row = self._routed(loop), loop.recorder.last_row
        measures = ("load", "load_entropy", "max_violation", "dead_experts",
                    "dropped_fraction")  # fmt: skip
        if "moe.load" not in row:
            return {}
        return {
            str(layer): {name: row[f"moe.{name}"][index] for name in measures}
            for index, layer in enumerate(moe.layers)
        }

    def _extract_moe_routing_stats(self) -> dict[str, Any]:
        """All that the newest row says of routing, by its keys; empty without experts.

        Lists have one entry for each routed layer.
        """
        row = self._loop.recorder.last_row if self._loop else {}
        return {key: value for key, value in row.items() if key.startswith("moe.")}

    def _calculate_throughput(self) -> float:
        """Tokens of all processes in a second, in the newest row; 0 before any."""
        row = self._loop.recorder.last_row if self._loop else {}
        return float(row.get("tokens_per_second") or 0.0)

    def _initialize_new_expert(
        self,
        new: nn.Module,
        existing: Sequence[nn.Module],
        noise: float = NOISE,
    ) -> None:
        """Give an expert the mean of existing ones, and noise that tells it apart.

        `add_expert` does this to a run as a whole, with the states of the optimizer.

        Args:
            new: filled in place.
            existing: with parameters of the same names and shapes.
            noise: spread of the noise over that of the existing values.
        """
        with torch.no_grad():
            for name, parameter in new.named_parameters():
                held = torch.stack([e.get_parameter(name) for e in existing])
                mean = held.float().mean(0)
                seed = self.config.train.seed
                parameter.copy_(told_apart(mean, held, noise, seed, name))

    def get_adaptive_status(self) -> dict[str, Any]:
        """What the orchestrator has decided so far, or had when the run ended.

        `adaptive_decisions_made` counts the decisions, `meta_learning_runs` the earlier
        runs that they rest on, `monitoring_active` says whether a run is being watched
        now, and `recent_decisions` has the newest 20: `type`, `reasoning`,
        `confidence`, `step`, `anomaly`, `mode`, the control with its old and new value,
        and the `outcome` where it was measured.
        """
        if self._loop is None:
            return dict(self._last_status)
        return adaptive_status(self._loop.plan, self._loop.rules.status())

    def _check_expert(self, layer: int, expert: int) -> None:
        """Refuse a block without experts and an expert there is not."""
        moe = self._routed(self._running())
        if layer not in moe.layers or not 0 <= expert < moe.num_experts:
            raise LuminaError(
                "E005",
                f"there is no expert {expert} in block {layer}",
                f"blocks {', '.join(map(str, moe.layers))} have experts 0 to "
                f"{moe.num_experts - 1}",
            )

    def _routed(self, loop: Loop) -> MoeSpec:
        """The routed layers of the running model.

        Raises:
            LuminaError: E002 when it has none.
        """
        control_named("add_expert").check_plan(loop.plan)
        assert loop.plan.spec.moe is not None
        return loop.plan.spec.moe

    def _request(self, name: str, value: Any, reason: str) -> int:
        return self._running().controls.request(name, value, reason)
