"""Keeping what a base model knows: what it needs, and which options do nothing."""

from __future__ import annotations

from lumina.config.phase_entries import phases_of
from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.config.source_entries import source_paths
from lumina.features import lacking


def check(settings: Settings) -> None:
    """Refuse to keep scores where there is no base text, or no plain language model.

    Raises:
        LuminaError: E002.
    """
    if "outputs" not in _methods(settings):
        return
    what = "preservation_method outputs"
    if not source_paths(settings):
        refuse(
            f"{what} compares the models on rows of base text, and there are no "
            "sources",
            "name --base-training-paths, or --sources, of which the first is the base "
            "text; or use --preservation-method weights",
        )
    for kind, _ in lacking(settings, "base_outputs"):
        leaf = str(kind.option)
        refuse(
            f"{what} compares next-token scores of one forward pass, and {leaf} "
            f"{settings.get(leaf)} makes a model without them",
            f"use --preservation-method weights, or leave {leaf} out",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options of preservation without effect, and why."""
    methods = _methods(settings)
    if not methods:
        why = "preserve_base_knowledge is off"
        leaves = ("method", "strength", "temperature")
        return {f"preservation_{leaf}": why for leaf in leaves}
    if "outputs" not in methods:
        return {"preservation_temperature": "preservation_method is weights"}
    return {}


def _methods(settings: Settings) -> set[object]:
    """The methods of the parts of the run that keep something."""
    leaves = ("preserve_base_knowledge", "preservation_method")
    whole = {leaf: settings.get(leaf) for leaf in leaves}
    parts = [whole, *(whole | dict(one.options) for one in phases_of(settings))]
    return {part[leaves[1]] for part in parts if part[leaves[0]]}


RULE = Rule(check=check, without_effect=without_effect)
