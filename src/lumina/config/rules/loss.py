"""Loss: which turns of a conversation bear it, and how much their tokens weigh."""

from __future__ import annotations

from lumina.config.loss_entries import loss_roles, role_weights
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError
from lumina.features import lacking


def check(settings: Settings) -> None:
    """Refuse roles that there are not, and weights that leave nothing to learn.

    Raises:
        LuminaError: E002 or E005.
    """
    if settings.train.label_smoothing:
        _check_smoothing(settings)
    data = settings.data
    roles = loss_roles(data.loss_on)
    weights = role_weights(data.role_weights)
    if not any(weights.get(role, 1.0) for role in {*roles, *weights}):
        refuse(
            "role_weights gives every role that bears loss the weight 0",
            "leave a role with a weight above 0",
        )
    if any(weight < 0 for weight in data.turn_weights):
        raise LuminaError(
            "E005",
            f"turn_weights is {' '.join(map(str, data.turn_weights))}",
            "give numbers of 0 or more",
        )
    if data.turn_weights and not any(data.turn_weights):
        refuse("every number of turn_weights is 0", "give one above 0")
    if data.loss_on == "last" and any(
        weight for role, weight in weights.items() if role != "assistant"
    ):
        refuse(
            "loss_on last teaches the last answer alone, and role_weights names "
            "another role",
            "name the roles with --loss-on, or leave the other role out",
        )


def _check_smoothing(settings: Settings) -> None:
    """Smoothed labels are those of the plain language model's loss alone."""
    for kind, why in lacking(settings, "label_smoothing"):
        refuse(
            f"label_smoothing {settings.train.label_smoothing:g} does not go with "
            f"{kind.option}: {why}",
            f"leave {kind.option} or label_smoothing out",
        )
    if settings.stages.preservation_method == "outputs" and settings.get(
        "preserve_base_knowledge"
    ):
        refuse(
            "label_smoothing does not go with preservation_method outputs, whose loss "
            "has labels of its own",
            "use --preservation-method weights, or leave label_smoothing out",
        )


RULE = Rule(check=check)
