"""Length: how long the documents of a row are, up to the row's length."""

from __future__ import annotations

import numpy as np

from lumina.data.mixture.measures.table import Floats, register_measure
from lumina.data.packing import Packing
from lumina.data.store import TokenStore


@register_measure("length")
def length(store: TokenStore, packing: Packing) -> Floats:
    """Positions of each chunk."""
    return packing.lengths.astype(np.float64)
