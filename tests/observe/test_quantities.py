"""Numbers as people read them."""

from __future__ import annotations

from types import SimpleNamespace

from lumina.model.spec import PartsSpec
from lumina.observe import quantities as q
from lumina.observe.reported import part_cells


def test_a_decimal_number_has_six_digits_before_its_point_at_most():
    assert q.decimal(2.5) == "2.5000"
    assert q.decimal(-999_999.5, 1) == "-999999.5"
    assert q.decimal(1_000_000) == "1.000e+06"
    assert q.decimal(-1_000_000) == "-1.000e+06"
    assert q.decimal(None) == q.decimal(float("nan")) == "\N{EM DASH}"


def test_a_part_tells_its_own_figures_to_three_decimals():
    parts = PartsSpec(attention=("gated",), block=("standard",))
    plan = SimpleNamespace(spec=SimpleNamespace(parts=parts))
    row = {"loss": 1.0, "gated.decay": 0.98765, "other.decay": 2.0, "gated": 3.0}
    assert part_cells(row, plan) == [("gated.decay", "0.988")]
    assert part_cells(row, None) == []
