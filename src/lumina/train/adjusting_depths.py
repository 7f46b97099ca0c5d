"""What a running job can be asked about depths that are chosen."""

from __future__ import annotations

from typing import Any

from lumina.train.running_job import RunningJob


class AdjustingDepths(RunningJob):
    """The methods of a `Trainer` about Mixture of Depths."""

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
