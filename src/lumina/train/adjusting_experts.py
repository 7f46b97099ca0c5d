"""What a running job can be asked about routed experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lumina.errors import LuminaError
from lumina.model.spec import MoeSpec
from lumina.state.expert_surgery import NOISE, told_apart
from lumina.train.controls import control_named
from lumina.train.running_job import RunningJob

if TYPE_CHECKING:
    from lumina.train.loop import Loop


class AdjustingExperts(RunningJob):
    """The methods of a `Trainer` about experts."""

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
