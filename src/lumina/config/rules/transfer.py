"""Rates that carry over: what they need, and what is not known to carry over."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse, set_of
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.features import lacking

UNKNOWN = {
    "tie_embeddings": "the head would need a first value and a rate of its own",
    "scale_embeddings": "it multiplies the embedding by the root of the width",
    "use_stable_embedding": "its first value depends on the width",
    "mla_kv_rank": "latent widths do not follow the width",
}
"""Options beside which no rate is carried over, and why; kinds of model say it too."""


def check(settings: Settings) -> None:
    """Refuse a base that is not named, and models without a rule.

    Raises:
        LuminaError: E002.
    """
    asked = settings.transfer
    if asked.lr_transfer is None:
        return
    if asked.base_width is None:
        refuse(
            f"lr_transfer {asked.lr_transfer} carries a rate over from a base, and "
            "base_width is not set",
            "set --base-width to the --hidden-size of the model with that rate",
        )
    if asked.lr_transfer == "mup" and asked.base_depth is not None:
        refuse(
            "lr_transfer mup carries a rate over width alone, and base_depth is set",
            "use --lr-transfer completep, or leave --base-depth out",
        )
    kinds = {str(kind.option): why for kind, why in lacking(settings, "rate_transfer")}
    for leaf, why in (dict(set_of(settings, UNKNOWN)) | kinds).items():
        refuse(
            f"lr_transfer {asked.lr_transfer} does not go with {leaf}: {why}",
            f"leave {leaf} or lr_transfer out",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of the base without effect, and why."""
    if settings.transfer.lr_transfer is not None:
        return {}
    return dict.fromkeys(("base_width", "base_depth"), "lr_transfer is not set")


RULE = Rule(check=check, without_effect=without_effect)
