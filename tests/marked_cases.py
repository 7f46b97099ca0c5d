"""Cases of a test of which single ones show a clause of the specification."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest


def marked(names: Iterable[str], shows: Mapping[str, str | tuple[str, ...]]) -> Any:
    """`names` as parameters; those in `shows` carry a `covers` mark of their own."""
    names = list(names)
    assert set(shows) <= set(names), sorted(set(shows) - set(names))
    return [
        pytest.param(name, marks=_covers(shows[name]) if name in shows else ())
        for name in names
    ]


def _covers(clauses: str | tuple[str, ...]) -> pytest.MarkDecorator:
    given = (clauses,) if isinstance(clauses, str) else clauses
    return pytest.mark.covers(*given)
