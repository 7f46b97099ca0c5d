"""Numbers as people read them."""

from __future__ import annotations

from types import SimpleNamespace

from lumina import quantities as q
from lumina.model.spec import PartsSpec
from lumina.observe.reported import part_cells


def test_a_decimal_number_has_six_digits_before_its_point_at_most():
    assert q.decimal(2.5) == "2.5000"
    assert q.decimal(-999_999.5, 1) == "-999999.5"
    assert q.decimal(1_000_000) == "1.000e+06"
    assert q.decimal(-1_000_000) == "-1.000e+06"
    assert q.decimal(None) == q.decimal(float("nan")) == "\N{EM DASH}"


def test_a_size_and_a_count_are_short_whatever_their_magnitude():
    shown = [q.byte_size(n) for n in (0, 1023, 1024, 1536 * 2**20, 3 * 2**40)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "3.0 TiB"]
    assert [q.count(n) for n in (999_999, 12_345_678)] == ["999,999", "12.35M"]


def test_a_time_is_a_clock_where_it_runs_and_words_in_an_estimate():
    assert [q.clock(s) for s in (75, 3600, 90061)] == ["1:15", "1:00:00", "1d 1:01:01"]
    assert [q.duration(s) for s in (119, 120, 12000)] == [
        "119 s",
        "2 min",
        "3 h 20 min",
    ]


def test_a_part_tells_its_own_figures_to_three_decimals():
    parts = PartsSpec(attention=("gated",), block=("standard",))
    plan = SimpleNamespace(spec=SimpleNamespace(parts=parts))
    row = {"loss": 1.0, "gated.decay": 0.98765, "other.decay": 2.0, "gated": 3.0}
    assert part_cells(row, plan) == [("gated.decay", "0.988")]
    assert part_cells(row, None) == []
