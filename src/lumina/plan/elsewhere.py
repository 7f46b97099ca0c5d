"""What a run keeps in host memory and on disk in place of its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.features import find_feature
from lumina.model.spec import ModelSpec
from lumina.plan.compressing import decide_compression
from lumina.plan.costs.layout import Layout
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.environment import Environment
from lumina.plan.exchanging import MESSAGE_OPTIONS, PERSISTENT, messages_of
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.plan import Plan

WORDS = {"host": "pinned host memory", "disk": "files of the offload folder"}
"""Place -> what the bytes there are."""


def decide_offload(config: Config, spec: ModelSpec, decisions: Decisions) -> None:
    """Take over where the tensors of a run are to live, and how many at a time.

    Raises:
        LuminaError: E002 where heads do not divide into the groups that were asked for.
    """
    for field in (
        "optimizer_states_in",
        "offload_folder",
        "optimizer_in_backward",
        "embedding_in",
        "weights_in",
        "weights_ahead",
        "activations_in",
        "feedforward_tile",
        "attention_head_groups",
        *MESSAGE_OPTIONS,
        PERSISTENT,
    ):
        value = config.get(field)
        value = "" if value is None else value
        decisions.decide(field, value, source_of(config, field))
    decide_compression(config, decisions)
    groups = config.activations.attention_head_groups
    if spec.mla_kv_rank and groups > 1:
        raise LuminaError(
            "E002",
            "attention_head_groups divides grouped-query attention, and the attention "
            f"of this model is latent (mla_kv_rank {spec.mla_kv_rank})",
            "leave --attention-head-groups out",
        )
    if spec.num_kv_heads % groups:
        raise LuminaError(
            "E002",
            f"{groups} groups do not divide the {spec.num_kv_heads} heads of keys",
            f"use --attention-head-groups {spec.num_kv_heads} or a divisor of it",
        )
    bits = int(config.activations.activation_bits or 0)
    decisions.decide("activation_bits", bits, source_of(config, "activation_bits"))


def layout_beside(plan: Plan) -> dict[str, Any]:
    """What a `Layout` has to know of a Plan to count what lives beside the device."""
    return {
        "masters_beside": plan.masters_beside,
        "freeze": plan.freeze,
        "weights_ahead": plan.weights_ahead,
        "messages": messages_of(plan),
    }


def elsewhere(spec: ModelSpec, layout: Layout) -> dict[str, int]:
    """Bytes of one process by place, "host" or "disk"; nothing where there are none."""
    found: dict[str, int] = {}
    for name in layout.features:
        where = find_feature(name).elsewhere
        for place, size in where(spec, layout).items() if where else ():
            found[place] = found.get(place, 0) + size
    return {place: size for place, size in found.items() if size}


def check_host(sizes: Mapping[str, int], machine: Environment) -> None:
    """Refuse what does not fit into the memory of the host.

    Args:
        sizes: of one process, as of `elsewhere`.
        machine: what there is.

    Raises:
        LuminaError: E202.
    """
    processes = machine.local_processes
    wanted, have = sizes.get("host", 0) * processes, machine.host_memory_bytes
    if wanted > have:
        raise LuminaError(
            "E202",
            f"what lives beside the device takes {byte_size(wanted)} of host memory, "
            f"which has {byte_size(have)}",
            "--optimizer-states-in disk and --weights-in disk need a local disk with "
            "as much room; "
            "--optimizer adamw_8bit has a quarter of AdamW's states",
        )


def in_words(sizes: Mapping[str, int]) -> str:
    """The bytes of each place, in words; empty where there are none."""
    return ", ".join(
        f"{byte_size(size)} in {WORDS.get(place, place)}"
        for place, size in sizes.items()
    )
