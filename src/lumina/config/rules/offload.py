"""What lives beside the device: what does nothing without it."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse, set_of
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings

_NEED_ALL_GRADIENTS = {
    "max_grad_norm": "clips by the norm of all gradients",
    "gradient_steps": "acts on all gradients before a weight changes",
    "robust_clip": "acts on all gradients before a weight changes",
    "weight_changes_every": "compares the weights around the update after it",
}
"""Options that need what `optimizer_in_backward` uses up, and why."""


def check(settings: Settings) -> None:
    """Refuse an embedding on the host that trains, and what needs all gradients.

    That is of a step, where they are used up one by one.

    Raises:
        LuminaError: E002.
    """
    if settings.offload.embedding_in == "host" and not settings.adapters.use_peft:
        refuse(
            "embedding_in host is for an embedding that does not train, as beside "
            "adapters, and without use_peft it trains",
            "add --use-peft, or leave --embedding-in host out",
        )
    frozen = settings.adapters.use_peft or settings.train.freeze
    if settings.offload.weights_in != "device" and not frozen:
        refuse(
            f"weights_in {settings.offload.weights_in} is for weights that do not "
            "train, and without use_peft or freeze all of them train",
            "add --use-peft, or leave --weights-in out",
        )
    if not settings.offload.optimizer_in_backward:
        return
    for leaf, why in set_of(settings, _NEED_ALL_GRADIENTS):
        refuse(
            "optimizer_in_backward changes a weight as soon as its gradient is there, "
            f"and {leaf} {settings.get(leaf)} {why}",
            f"use --{leaf.replace('_', '-')} 0, or leave one of the two out"
            if leaf == "max_grad_norm"
            else "leave one of the two out",
        )
    precision = settings.system.precision
    if precision in ("fp16", "mixed_fp16"):
        refuse(
            f"precision {precision} has a loss scale, which needs all gradients before "
            "a weight changes, as optimizer_in_backward does",
            "use --precision bf16",
        )
    if (settings.train.grad_accum or 1) > 1:
        refuse(
            "optimizer_in_backward changes weights in every backward pass, and "
            f"grad_accum is {settings.train.grad_accum}",
            "use --grad-accum 1",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of offloading without effect, and why."""
    offload, found = settings.offload, {}
    places = (
        offload.optimizer_states_in,
        offload.weights_in,
        settings.activations.activations_in,
    )
    if "disk" not in places:
        found["offload_folder"] = "nothing lives on disk"
    if offload.weights_in == "device":
        found["weights_ahead"] = "weights_in is device"
    return found


RULE = Rule(check=check, without_effect=without_effect)
"""Options of where the tensors of a run live."""
