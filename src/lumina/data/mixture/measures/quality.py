"""Quality: the score that a field of each record gives it (`quality_field`)."""

from __future__ import annotations

import numpy as np

from lumina.data.mixture.measures.table import Floats, register_measure
from lumina.data.packing import Packing
from lumina.data.store import TokenStore
from lumina.errors import LuminaError


@register_measure("quality")
def quality(store: TokenStore, packing: Packing) -> Floats:
    """The score of each chunk's document.

    Raises:
        LuminaError: E002 for a store that was made without scores.
    """
    if store.quality is None:
        raise LuminaError(
            "E002",
            "the documents have no scores",
            "name the field that holds them: --quality-field score",
        )
    document = np.searchsorted(store.starts, packing.starts, side="right") - 1
    found: Floats = np.asarray(store.quality[document], dtype=np.float64)
    return found
