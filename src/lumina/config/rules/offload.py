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


_BETWEEN = "reads or changes all weights between steps"
_READ_WEIGHTS = {
    "gradient_steps": "acts on all gradients on the device",
    "robust_clip": "acts on all gradients on the device",
    "weight_changes_every": _BETWEEN,
    "ema_decay": _BETWEEN,
    "swa_start": _BETWEEN,
    "lookahead_steps": _BETWEEN,
    "qk_clip": _BETWEEN,
    "preserve_base_knowledge": _BETWEEN,
}
"""Options that need weights on the device which are streamed while they train."""


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
    _check_streamed(settings)
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


def _check_streamed(settings: Settings) -> None:
    """Refuse all that reads or changes weights which are streamed while they train."""
    offload = settings.offload
    if offload.weights_in == "device":
        return
    if settings.adapters.use_peft or settings.train.freeze:
        return
    what = f"weights_in {offload.weights_in}, where all weights train,"
    if offload.optimizer_states_in == "device":
        refuse(
            f"{what} needs the optimizer's states beside the device, too: a step takes "
            "weights and states to the device page by page",
            "add --optimizer-states-in host or disk, or train adapters (--use-peft) or "
            "a part of the weights (--freeze), whose frozen weights alone are streamed",
        )
    for leaf, why in set_of(settings, _READ_WEIGHTS):
        refuse(
            f"{what} does not go together with {leaf}, which {why}",
            "leave one of the two out",
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
