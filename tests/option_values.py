"""Values that an option may have."""

from __future__ import annotations

from hypothesis import strategies as st

from lumina.config.leaves import choices, is_list, value_type


def values_of(leaf: str) -> st.SearchStrategy[object]:
    """Values a leaf may have, by its type; bounds are met by most of them."""
    kind = value_type(leaf)
    if choices(leaf):
        return st.sampled_from(choices(leaf))
    if is_list(leaf):
        return st.lists(st.text(), max_size=3)
    numbers = st.floats(1e-12, 1 - 1e-9) | st.floats(1, 1e9)
    by_type = {bool: st.booleans(), int: st.integers(0, 2**40), float: numbers}
    return by_type.get(kind, st.text())
