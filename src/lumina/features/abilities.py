"""What only some kinds of model can do: a feature asks once, each kind answers.

A feature that not every kind of model goes together with does not name kinds: it asks
`lumina.features.lacking` whether the kinds that a Config asks for lack an ability, or
`lumina.model.kinds.table.why_not` whether a model does. A kind declares in its own file
what it lacks and why (`Feature.lacks`; `Kind.lacks` of a kind from a plug-in). The code
and the way out are those of the feature that asks, the reason is the kind's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean


def _not_asked(config: Any) -> str:
    """No option of a run asks for it: what asks has a model at hand."""
    return ""


def _set(option: str) -> Callable[[Any], str]:
    """The option with its value, where it is set to anything but off."""

    def asked(config: Any) -> str:
        value = config.get(option)
        if value in (None, False, 0, (), "none"):
            return ""
        return option if value is True else f"{option} {value}"

    return asked


def _base_outputs(config: Any) -> str:
    method = config.get("preservation_method")
    keeps = config.get("preserve_base_knowledge") and method == "outputs"
    return "preservation_method outputs" if keeps else ""


@dataclass(frozen=True)
class Ability:
    """Something that kinds of model may lack.

    Attributes:
        meaning: what a model can do that does not lack it; completes "it can ...".
        asked: the words of a Config that ask for it, with the value; "": none do.
    """

    meaning: str
    asked: Callable[[Any], str] = _not_asked


ABILITIES: dict[str, Ability] = {
    "adapters": Ability("train adapters beside frozen weights", _set("use_peft")),
    "answers": Ability("write answers, as the options of answers say"),
    "attention_statistics": Ability(
        "let its attention be looked at, layer by layer", _set("attention_stats_every")
    ),
    "base_outputs": Ability(
        "be compared with a base model by the scores of the next token", _base_outputs
    ),
    "cache_window": Ability("answer with a window of the newest keys in its cache"),
    "chosen_length": Ability("take a length of rows and a vocabulary that are chosen"),
    "context_tier": Ability("train on rows as long as a tier says", _set("tier")),
    "decoding_floor": Ability(
        "be given a floor of decoding, as every token reads every weight once"
    ),
    "fine_tuning": Ability("be tuned with a language model's lengths and rates"),
    "float32_alone": Ability("train on a device without float64"),
    "label_smoothing": Ability("train on smoothed labels", _set("label_smoothing")),
    "layer_profile": Ability(
        "let time and memory be measured, layer by layer", _set("layer_profile_every")
    ),
    "loading_of_text": Ability("load packed text in memory, in shards or streamed"),
    "measured_batch": Ability("let batches of rows of text be measured before a run"),
    "long_contexts": Ability("be asked how far back it reads text"),
    "rows_apart": Ability("answer requests that begin and end at any time"),
    "paged_cache": Ability("keep keys and values in blocks that rows share"),
    "plain_attention": Ability("compute its attention as the definition spells it out"),
    "pretests": Ability("be compared with its reference step by step, before a run"),
    "rate_transfer": Ability(
        "take over a learning rate from a narrower model", _set("lr_transfer")
    ),
    "row_order": Ability("read the packed rows of a store in a chosen order"),
    "samples": Ability("continue prompts while it trains"),
    "stretched_positions": Ability("read further by slower rotations"),
}
"""What is asked for by name -> what it is."""


def register_ability(name: str, ability: Ability) -> Ability:
    """Add something that kinds of model may lack; the file of what asks calls it.

    Raises:
        LuminaError: E005 for a name that is none, or that another ability has.
    """
    if not name.isidentifier() or ABILITIES.get(name, ability) != ability:
        raise LuminaError(
            "E005",
            f"an ability cannot be called {name!r}",
            "use letters, digits and _, and a name that is not in use",
        )
    ABILITIES[name] = ability
    return ability


def check_abilities(who: str, names: Iterable[str], others: Iterable[str] = ()) -> None:
    """Refuse what a kind of model says that it lacks where nothing asks for it.

    Args:
        who: the kind, for the message.
        names: what it lacks.
        others: names that may stand there besides abilities.

    Raises:
        LuminaError: E005, naming the nearest ability.
    """
    known = [*ABILITIES, *others]
    for name in names:
        if name in known:
            continue
        meant = did_you_mean(name, known)
        raise LuminaError(
            "E005",
            f"{who} lacks {name!r}, which nothing asks for",
            f"{meant}there are {', '.join(sorted(ABILITIES))}",
        )
