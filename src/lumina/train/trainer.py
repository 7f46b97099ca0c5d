"""`Trainer`: the public face of a run, in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lumina.assemble.assemble import check_fits
from lumina.assemble.program import Program
from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.spec import MoeSpec
from lumina.observe.console import Console
from lumina.plan.environment import Environment
from lumina.plan.plan import Plan
from lumina.state.surgery import NOISE
from lumina.train.aliases import with_aliases
from lumina.train.branch import begun, branch_of
from lumina.train.callbacks import Callback, Deliveries
from lumina.train.controls import Controls, control_named
from lumina.train.job import Job
from lumina.train.loop import Loop
from lumina.train.preparation import Preparation
from lumina.train.result import TrainResult
from lumina.train.resume import find_run
from lumina.train.run_folder import RunFolder
from lumina.train.start import check_data
from lumina.train.visible_devices import use_cuda_ids

__all__ = ["TrainResult", "Trainer"]


class Trainer:
    """Trains the model a Config describes.

    Args:
        config: the settings.
        console: what a person sees; one on standard output when absent.
        on_step: called on every rank with the trainer and each finished metrics row.
        callbacks: called after it, in their order; see `Callback`.

    Attributes:
        plan: what the running program realises, and after the run what its last
            program realised; None before `train` has decided it.
        controls: the way to change a running job, once `train` has begun.
        begins_and_ends: how texts and conversations of the data begin and end, in
            words, once `explain` has read the data.
    """

    def __init__(
        self,
        config: Config,
        *,
        console: Console | None = None,
        on_step: Callable[[Trainer, dict[str, Any]], None] | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.config = config = config.settled()
        use_cuda_ids(config.system.cuda_ids)
        self.ranks = Ranks.from_environment()
        self.console = console or Console(rank=self.ranks.rank)
        self.on_step = on_step
        self._deliveries = Deliveries(self, callbacks)
        self.controls: Controls | None = None
        self._loop: Loop | None = None
        self._last_plan: Plan | None = None
        self.begins_and_ends: Mapping[str, str] = {}

    def train(self) -> TrainResult:
        """Run to the end, or to a signal.

        Raises:
            LuminaError: whatever stands in the way, with its code.
        """
        self._check_nproc()
        with begun(self.config, self.ranks) as config:
            job = Job(config, self.ranks, self.console)
            result = self._run(job)
        while (phase := job.next_phase) is not None:
            job = Job(job.to_go_on(), self.ranks, self.console, after_phase=phase - 1)
            result = self._run(job)
        return result

    def _run(self, job: Job) -> TrainResult:
        """One phase of a run, or a run that has none."""
        with job.signals:
            try:
                finished = job.prepare()
                if finished is not None:
                    return finished
                loop = job.build(self._deliveries.row, self._deliveries.event)
                self._deliveries.begin(job.folder.directory.path)
                self._loop, self.controls = loop, loop.controls
                return job.run()
            finally:
                self._last_plan, self._loop = self.plan, None
                job.close(leave=job.next_phase is None)
                self._deliveries.deliver()

    def _check_nproc(self) -> None:
        """Refuse a number of processes that are not the ones running."""
        system, here = self.config.system, self.ranks.local_size
        asked = system.nproc or len(system.cuda_ids) or None
        if asked is None or asked == here:
            return
        if "WORLD_SIZE" in os.environ:
            raise LuminaError(
                "E002",
                f"--nproc is {asked}, and the environment says that {here} "
                f"process{' was' if here == 1 else 'es were'} started on this machine "
                "(WORLD_SIZE, LOCAL_WORLD_SIZE)",
                "leave --nproc out under torchrun; without a launcher, unset "
                "WORLD_SIZE and RANK",
            )
        raise LuminaError(
            "E002",
            f"nproc {asked} was asked of a single process",
            "use `lumina train --nproc N` or torchrun; Python starts one process",
        )

    def explain(
        self, machine: Environment | None = None
    ) -> tuple[Plan, Environment, int | None]:
        """What `train` would do: the plan, the machine, rows of an epoch.

        Nothing is trained and no run is begun. Without training data the plan is made
        for the model alone, and says so.

        Args:
            machine: plan for this one, which need not be present; default: the
                present one.

        Raises:
            LuminaError: whatever would stand in the way of the run.
        """
        prepared = Preparation(self.config, self.ranks, self.console)
        try:
            branch = branch_of(self.config)
            if branch is not None:
                prepared = Preparation(branch.config, self.ranks, self.console)
            run = find_run(self.config) if branch is None else branch.run
            RunFolder(self.config, self.ranks).check(None if branch else run)
            prepared.look_back(run)
            prepared.decide(planning=True, machine=machine)
            reader, weights = prepared.reader, prepared.weights
            source = reader or (weights.source if weights else None)
            if source is not None or prepared.plan.freeze:
                check_fits(prepared.plan, source)
            if reader is not None and prepared.has_data:
                check_data(prepared, reader.meta.extra)
            if prepared.has_data:
                self.begins_and_ends = prepared.data.stats.get("begins_and_ends", {})
            return (
                prepared.plan_to_show(),
                prepared.environment,
                prepared.rows_per_epoch,
            )
        finally:
            self.console.close()
            self.ranks.disconnect()

    @property
    def plan(self) -> Plan | None:
        """What the running program realises; see `Trainer`."""
        return self._last_plan if self._loop is None else self._loop.plan

    @property
    def program(self) -> Program | None:
        """What trains now; another one after a reassembly."""
        return None if self._loop is None else self._loop.program

    def stop(self) -> None:
        """End the run after the next step, with a checkpoint, as SIGTERM does.

        `train` then returns a result whose exit code is 143, and the run can be
        resumed, with another number of steps too.

        Raises:
            LuminaError: E005 when nothing is being trained.
        """
        self._running().ask_to_stop()

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

    def _running(self) -> Loop:
        if self._loop is None:
            raise LuminaError(
                "E002", "no run is under way", "call this from on_step, or a thread"
            )
        return self._loop
