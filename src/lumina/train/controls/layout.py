"""Controls of how a step is carried out: they change memory and speed, no result."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.config.rules.activations import TILELESS
from lumina.errors import LuminaError
from lumina.features import FEATURES, active_features, conflict
from lumina.parallel.table import chosen_way
from lumina.plan.checkpointing import KINDS, kind_of
from lumina.plan.figures import with_spec
from lumina.plan.plan import Plan
from lumina.train.controls.control import Control, is_number
from lumina.train.controls.table import register_control


class Layout(Control):
    """A field of the Plan, for which another Program is assembled."""

    def now(self, program: Program, step: int) -> Any:
        """The Plan's field."""
        return getattr(program.plan, self.name)

    def fits(self, program: Program, value: Any) -> bool:
        """Never: modules and buffers are built for the value."""
        return False


@register_control
class MicroBatchSize(Layout):
    """Sequences of a device and forward; the global batch stays."""

    name = "micro_batch_size"
    allowed = "sequences of a forward are a whole number from 1"
    settings = ("batch_size", "grad_accum")

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a whole number from 1 on."""
        return isinstance(value, int) and value >= 1

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with another split of the global batch.

        Raises:
            LuminaError: E002 when the ranks cannot share the global batch like that.
        """
        per_forward = value * plan.data_parallel
        if plan.global_batch_size % per_forward:
            raise LuminaError(
                "E002",
                f"the global batch of {plan.global_batch_size} is not a multiple of "
                f"{value} sequences on {plan.data_parallel} devices",
                "choose a divisor of the global batch per device",
            )
        return plan.replace(
            micro_batch_size=value, grad_accum=plan.global_batch_size // per_forward
        )


@register_control
class GradientCheckpointing(Layout):
    """Which activations are computed again in the backward pass."""

    name = "gradient_checkpointing"
    allowed = (
        "it is none, attention, feedforward, selective, except_attention, full or sqrt"
    )
    settings = ("gradient_checkpointing",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a kind that needs no decision for single blocks."""
        return value in KINDS and value != "budget"

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with another kind of checkpointing."""
        return plan.replace(gradient_checkpointing=value)


@register_control
class BucketSize(Layout):
    """MiB of gradients that several processes exchange at a time (DDP's buckets).

    A bucket is on its way while the backward pass computes the next one. Large buckets
    are few messages, which is good where each message takes long to arrive; small ones
    are under way sooner, so that more of the exchange is hidden (Li et al., 2020,
    arXiv:2006.15704). What is computed does not depend on it.
    """

    name = "bucket_mb"
    allowed = "MiB of gradients at a time are a number above 0, up to 1024"

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a size of a message."""
        return is_number(value) and 0 < value <= 1024

    def check_plan(self, plan: Plan) -> None:
        """Refuse a run whose processes exchange no buckets.

        Raises:
            LuminaError: E002.
        """
        if not chosen_way(plan.parallel).buckets:
            raise LuminaError(
                "E002",
                f"gradients are not exchanged in buckets with parallel {plan.parallel}",
                "use several processes and --parallel ddp to change their size",
            )

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with buckets of another size."""
        return plan.replace(bucket_mb=float(value))


@register_control
class ActivationsIn(Layout):
    """Where the inputs of blocks that are computed again wait."""

    name = "activations_in"
    allowed = "it is device, host (beside a CUDA device) or disk"
    settings = ("activations_in",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is one of the three places."""
        return value in ("device", "host", "disk")

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with another place.

        Raises:
            LuminaError: E002 where no block is computed again, E003 for the host
                without a CUDA device.
        """
        if value != "device" and not kind_of(plan).recomputes:
            raise LuminaError(
                "E002",
                f"gradient checkpointing {plan.gradient_checkpointing} computes no "
                "block again, so that no input waits",
                "set gradient_checkpointing full first",
            )
        if value == "host" and plan.device != "cuda":
            raise LuminaError(
                "E003",
                f"a run on {plan.device} keeps activations in host memory already",
                "use disk",
            )
        return plan.replace(activations_in=value)


@register_control
class FeedforwardTile(Layout):
    """Tokens that go through a feed-forward at a time."""

    name = "feedforward_tile"
    allowed = "tokens of a tile are a whole number from 1, or 0 for all at once"
    settings = ("feedforward_tile",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is a whole number from 0 on."""
        return type(value) is int and value >= 0

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with tiles of that size; they take the place of compiled blocks.

        Raises:
            LuminaError: E002 where the model, or what is kept of its activations, does
                not go together with tiles.
        """
        if not value:
            return plan.replace(feedforward_tile=0)
        if plan.gradient_checkpointing in TILELESS:
            raise LuminaError(
                "E002",
                f"gradient_checkpointing {plan.gradient_checkpointing} keeps the "
                "products of feed-forwards, and tiles are there to do without them",
                "set gradient_checkpointing full first",
            )
        plan = plan.replace(feedforward_tile=value, compile=False)
        found = conflict(FEATURES, "tiled_feedforward", active_features(FEATURES, plan))
        if found is not None:
            other, why = found
            raise LuminaError(
                "E002",
                f"tiles and {other} do not go together: {why}",
                "leave feedforward_tile at 0",
            )
        return with_spec(plan, plan.spec)


@register_control
class OptimizerStatesIn(Layout):
    """Where the optimizer's states live between steps."""

    name = "optimizer_states_in"
    allowed = "it is device, host or disk"
    settings = ("optimizer_states_in",)

    def makes_sense(self, value: Any) -> bool:
        """Whether it is one of the three words."""
        return value in ("device", "host", "disk")

    def edit(self, plan: Plan, value: Any) -> Plan:
        """The Plan with states that live there.

        Raises:
            LuminaError: E003 for the host's memory, where that is the device's.
        """
        if value == "host" and plan.device != "cuda":
            raise LuminaError(
                "E003",
                f"the states of a run on {plan.device} are in host memory already",
                "choose disk",
            )
        return with_spec(plan.replace(optimizer_states_in=value), plan.spec)
