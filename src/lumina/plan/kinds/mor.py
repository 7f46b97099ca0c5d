"""Mixture of Recursions: its options and its shape."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from lumina.model.spec import ModelSpec, MorSpec
from lumina.plan.kinds.kind import Known, Planned, given_or

if TYPE_CHECKING:
    from lumina.config import Config


class Recursions(Planned):
    """Blocks that are passed several times."""

    field = "mor"
    switch = "use_mor"
    live = (
        "mor_router_loss_weight", "mor_capacity_factor", "mor_balance_weight",
        "mor_z_loss_weight",
    )  # fmt: skip

    def chosen(self, config: Config) -> bool:
        """Whether `use_mor` is on."""
        return config.mor.use_mor

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with recursions."""
        return replace(spec, mor=_recursion(config))

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options of the recursions."""
        if spec.mor is None:
            return {"use_mor": False}
        own = {f"mor_{name}": value for name, value in asdict(spec.mor).items()}
        return {"use_mor": True} | own


def _recursion(config: Config) -> MorSpec:
    mor = config.mor
    usual = 1.0 if mor.mor_routing == "token_choice" else 0.1
    return MorSpec(
        recursions=mor.mor_recursions,
        mode="static" if config.routing.static_routing_mode else mor.mor_mode,
        alpha=given_or(mor.mor_alpha, usual),
        router_loss_weight=mor.mor_router_loss_weight,
        routing=mor.mor_routing,
        capacity_factor=mor.mor_capacity_factor,
        balance_weight=mor.mor_balance_weight,
        z_loss_weight=mor.mor_z_loss_weight,
        kv_sharing=mor.mor_kv_sharing,
    )
