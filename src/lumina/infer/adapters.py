"""Which of a network's adapters act, while it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lumina.errors import LuminaError
from lumina.model.adapters.attach import adapted_layers, set_weights
from lumina.model.adapters.layer import Adapters
from lumina.model.network import Network
from lumina.state.adapters.named import factor_of


def adapters_of(network: Network) -> dict[str, float]:
    """Name of each adapter of a network -> the factor of its change."""
    found: dict[str, float] = {}
    for _, layer in adapted_layers(network):
        adapters: Adapters = layer.adapters  # type: ignore[assignment]
        found |= adapters.weights
    return found


def switch(network: Network, factors: Mapping[str, float]) -> dict[str, float]:
    """Let other adapters act from the next token on.

    Keys and values that are cached stay as the adapters before made them.

    Args:
        network: loaded with `beside=True`, or trained with adapters.
        factors: name of an adapter -> the factor of its change; others do not act.

    Returns:
        The factors before, with which `switch` undoes this.

    Raises:
        LuminaError: E005 for a name that no adapter of the network has.
    """
    before = adapters_of(network)
    set_weights(network, factors)
    return before


def read_factors(words: Sequence[str]) -> dict[str, float]:
    """Words such as `farm` and `city=0.5` as names and factors; `none` names none.

    Raises:
        LuminaError: E005 for a factor that is no finite number.
    """
    found = {}
    for word in words:
        name, equals, text = word.partition("=")
        factor = factor_of(text) if equals else 1.0
        if factor is None:
            raise LuminaError(
                "E005", f"{text!r} is no factor of {name}", "such as: farm city=0.5"
            )
        found[name] = factor
    return {} if list(found) == ["none"] else found


def in_words(factors: Mapping[str, float]) -> str:
    """Which adapters act, and which do not."""
    if not factors:
        return "(the model has no adapters)"
    acting = [n if f == 1 else f"{f:g} x {n}" for n, f in factors.items() if f]
    still = [name for name, factor in factors.items() if not factor]
    text = f"acting: {', '.join(acting) or 'none'}"
    return f"({text}{'; not acting: ' * bool(still)}{', '.join(still)})"
