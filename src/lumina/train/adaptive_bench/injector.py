"""A plug-in that counts the steps of a run and makes things go wrong with it.

`INJECTION` in the environment names a JSON file with "log", "checkpoints" and "faults".
Every run of the benchmark has it, also those in which nothing goes wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lumina.batch import Batch
from lumina.measure.adaptive.log import Log
from lumina.measure.adaptive.texts import BAD_LOSS_ID, SPOILERS, SPOILT_ID
from lumina.model.interface import LossSums, Output
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.registry import register_objective
from lumina.optim.declared import Option
from lumina.optim.gate import Verdict
from lumina.optim.gradient_step import GradientStep, register_gradient_step
from lumina.optim.optimizer import Slot
from lumina.plan.plan import Plan
from lumina.train.adaptive_bench.process_faults import PROCESS_FAULTS
from lumina.train.rules import Proposal, Rule, register_rule
from lumina.train.rules.rule import Now

INJECTION = "LUMINA_BENCH_INJECTION"


class Injection:
    """What is to happen to this process's run, and what has.

    Attributes:
        step: steps that the run has done, as the optimizer counts them.
    """

    def __init__(self, path: Path) -> None:
        given = json.loads(path.read_text())
        self.log = Log(Path(given["log"]))
        self.checkpoints = Path(given["checkpoints"])
        self.faults: list[dict[str, Any]] = given["faults"]
        self.times = [self.log.happened(n) for n in range(len(self.faults))]
        self.step = 0

    def due(self) -> list[tuple[int, dict[str, Any]]]:
        """The faults of this step, by their numbers; each is noted as having happened.

        A fault that lasts some steps, or comes again, happens so often and no more:
        also where steps are done again.
        """
        found = []
        for number, fault in enumerate(self.faults):
            times = fault.get("times", fault.get("steps", 1))
            last = fault["step"] + (0 if "times" in fault else times - 1)
            if fault["kind"] in SPOILERS or self.times[number] >= times:
                continue
            if fault["step"] <= self.step <= last:
                self.times[number] += 1
                self.log.write("fault", self.step, number=number, name=fault["kind"])
                found.append((number, fault))
        return found

    def saw_text(self) -> None:
        """Spoilt text was read."""
        for number, fault in enumerate(self.faults):
            if fault["kind"] in SPOILERS:
                self.log.write("fault", self.step, number=number, name=fault["kind"])


_NOW: list[Injection] = []


def injection() -> Injection:
    """Of this process."""
    if not _NOW:
        _NOW.append(Injection(Path(os.environ[INJECTION])))
    return _NOW[0]


@register_gradient_step(
    "bench_injector", words="the benchmark counts steps and injects"
)
class Injector(GradientStep):
    """Counts the steps that are computed; changes gradients, weights and moments."""

    def __init__(
        self,
        slots: list[Slot],
        roles: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(slots, roles, options, device=device, seed=seed)
        self.injection = injection()
        self.injection.step = 0

    @torch.no_grad()
    def before(self, loss_scale: Tensor) -> None:
        """Count, and do what is due."""
        now = self.injection
        for _, fault in now.due():
            kind = fault["kind"]
            if kind in PROCESS_FAULTS:
                PROCESS_FAULTS[kind](fault, now.checkpoints)
            else:
                ON_TENSORS[kind](self, fault)
        now.step += 1
        now.log.write("step", now.step)

    def scalars(self) -> dict[str, Tensor]:
        """The number of steps that were done."""
        return {"steps": torch.tensor(float(self.injection.step), device=self.device)}

    def load_scalars(self, values: Mapping[str, float | list[float]]) -> None:
        """Go on counting."""
        self.injection.step = int(torch.tensor(values["steps"]).item())


def _scale_gradients(step: Injector, fault: Mapping[str, Any]) -> None:
    for _, gradient in step.gradients():
        gradient.mul_(fault["factor"])


def _push_routers(step: Injector, fault: Mapping[str, Any]) -> None:
    """The first expert's logit becomes so much larger, of either sign."""
    for slot in step.slots:
        if step.roles[slot.name] == "router":
            slot.master[0].mul_(fault["factor"])
            slot.write_back()


def _flip_bit(step: Injector, fault: Mapping[str, Any]) -> None:
    """A bit of the exponent of one weight: the weight times 2^40."""
    matrices = [slot for slot in step.slots if step.roles[slot.name] == "matrix"]
    slot = matrices[len(matrices) // 2]
    slot.master.view(-1)[0].mul_(2.0**40)
    slot.write_back()


def _lose_moments(step: Injector, fault: Mapping[str, Any]) -> None:
    for slot in step.slots:
        slot.state["exp_avg_sq"].zero_()


ON_TENSORS: Mapping[str, Callable[[Injector, Mapping[str, Any]], None]] = {
    "gradient_factor": _scale_gradients,
    "expert_bias": _push_routers,
    "flipped_bit": _flip_bit,
    "lost_moments": _lose_moments,
}
"""Kind -> what it does to gradients, weights or moments before a step is made."""


@register_gradient_step(
    "bench_skip_step",
    words="steps of which the gradient norm stands out are left out",
    options={
        "deviations": Option(6.0, least=1),
        "window": Option(128, least=8),
        "first": Option(16, least=2),
    },
)
class SkipStep(GradientStep):
    """Leaves a step out where its norm is far above the recent ones (OLMo 2).

    Its gradients count as zero then, so that the moments fade by one step.
    """

    def __init__(
        self,
        slots: list[Slot],
        roles: Mapping[str, str],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        super().__init__(slots, roles, options, device=device, seed=seed)
        self.norms = torch.full((options["window"],), torch.nan)

    @torch.no_grad()
    def judge(self, verdict: Verdict, loss_scale: Tensor) -> None:
        """Divide by infinity where the norm stands out; remember it where not."""
        norm = verdict.norm.item()
        seen = self.norms[self.norms.isfinite()]
        if len(seen) >= self.options["first"]:
            limit = seen.mean() + self.options["deviations"] * seen.std()
            if norm > limit.item():
                verdict.divisor = torch.full_like(verdict.divisor, torch.inf)
                return
        if verdict.skip.item() == 0:
            self.norms = torch.cat([self.norms[1:], torch.tensor([norm])])

    def scalars(self) -> dict[str, Tensor]:
        """The recent norms; nan where there are none yet."""
        return {"norms": self.norms}


@register_objective("bench_objective")
class Objective(LanguageModelObjective):
    """The usual one; a batch with a sign of `BAD_LOSS` has no finite loss."""

    def forward(
        self, output: Output, batch: Batch, tied: Tensor | None = None
    ) -> LossSums:
        """Cross entropy sums of a batch; see `LanguageModelObjective`."""
        sums = super().forward(output, batch, tied)
        if not self.training:
            return sums
        bad = bool((batch.input_ids == BAD_LOSS_ID).any())
        if bad or bool((batch.input_ids == SPOILT_ID).any()):
            injection().saw_text()
        if bad:
            sums.loss_sum = sums.loss_sum * torch.nan
            if sums.trained_sum is not None:
                sums.trained_sum = sums.trained_sum * torch.nan
        return sums


@register_rule
class Recording(Rule):
    """Notes the evaluations of the run; changes nothing."""

    name = "bench_recording"
    changes: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def wanted(cls, plan: Plan) -> str | None:
        """On in runs of the benchmark."""
        return "the benchmark records this run" if INJECTION in os.environ else None

    def see_evaluation(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Note the held-out loss."""
        injection().log.write("eval", step, loss=metrics.get("eval_loss"))

    def propose(self, step: int, now: Now) -> Proposal | None:
        """Nothing."""
        return None
