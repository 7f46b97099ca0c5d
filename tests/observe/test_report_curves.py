"""The curves of the report: which there are, and which of their points are kept."""

from __future__ import annotations

import numpy as np
import pytest

from lumina.observe.report import curves
from lumina.observe.report.metrics import Metrics
from lumina.observe.report.thinning import means, thin


def drawn(rows):
    found = curves.groups(Metrics(rows), {})
    return {chart["title"]: chart for group in found for chart in group.charts}


def test_thin_curves_keep_their_spikes_and_ends():
    xs, ys = np.arange(10_000.0), np.zeros(10_000)
    ys[4321], ys[7000] = 9.0, -5.0
    kept_x, kept_y = thin(xs, ys, 300)
    kept = dict(zip(kept_x, kept_y, strict=True))
    assert len(kept) <= 602 and list(kept) == sorted(kept)
    assert kept[4321.0] == 9.0 and kept[7000.0] == -5.0
    assert 0.0 in kept and 9999.0 in kept


def test_means_are_those_of_all_points_and_not_of_the_kept_ones():
    xs, ys = np.arange(1000.0), np.ones(1000)
    ys[500] = 101.0
    mean_x, mean_y = means(xs, ys, 10)
    assert mean_y.tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert mean_x[0] == pytest.approx(49.5)
    few = thin(xs[:20], ys[:20], 10)
    assert few[0].tolist() == xs[:20].tolist()


def test_steps_that_are_far_apart_are_thinned_by_their_place():
    xs = np.concatenate([np.arange(1000.0), 1e6 + np.arange(1000.0)])
    kept, _ = thin(xs, np.sin(xs), 50)
    assert {xs[0], xs[-1]} <= set(kept) and len(kept) <= 6


def test_outliers_make_the_axis_logarithmic():
    rows = [{"step": n, "grad_norm": 1.0} for n in range(1, 50)]
    assert not drawn(rows)["Gradient norm before clipping"]["log"]
    rows.append({"step": 50, "grad_norm": 1000.0})
    assert drawn(rows)["Gradient norm before clipping"]["log"]
    rows.append({"step": 51, "grad_norm": 0.0})
    assert not drawn(rows)["Gradient norm before clipping"]["log"]


def test_a_figure_of_each_layer_shows_its_mean_and_its_bounds():
    rows = [{"step": n, "moe.max_violation": [1.0, 2.0, 6.0]} for n in (1, 2)]
    (chart,) = drawn(rows).values()
    assert [line["y"] for line in chart["lines"]] == [[3, 3], [1, 1], [6, 6]]
    assert [line["quiet"] for line in chart["lines"]] == [False, True, True]


def test_experts_have_a_line_each_and_their_table():
    rows = [{"step": n, "moe.load": [[0.25, 0.75], [0.75, 0.25]]} for n in (1, 2)]
    chart = drawn(rows)["Share of the tokens of each expert"]
    assert [line["name"] for line in chart["lines"]] == ["expert 0", "expert 1"]
    assert chart["lines"][0]["y"] == [0.5, 0.5]


def test_sources_have_their_losses_and_shares_where_these_change():
    def row(step, share):
        return {"step": step, "source.a.loss": 1.0, "source.a.weight": share}

    assert "Share of each source" not in drawn([row(1, 0.5), row(2, 0.5)])
    found = drawn([row(1, 0.5), row(2, 0.6)])
    assert found["Share of each source"]["lines"][0]["y"] == [0.5, 0.6]
    assert found["Loss of each source"]["lines"][0]["name"] == "a"


def test_any_other_figure_has_a_curve_once():
    rows = [{"step": n, "loss": 2.0, "toy.heat": float(n), "same": 1} for n in (1, 2)]
    assert list(drawn(rows)) == ["Loss (nats per token)", "toy.heat"]


def test_a_curve_is_told_in_words_too():
    rows = [{"step": n, "loss": y} for n, y in enumerate((2.0, 8.0, 1.5, 3.0), 1)]
    table = drawn(rows)["Loss (nats per token)"]["table"]
    assert table == [("training", "2", "1.5 (step 3)", "8 (step 2)", "3")]


def test_values_that_are_not_finite_leave_a_gap():
    rows = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 1.0},
    ]
    assert drawn(rows)["Loss (nats per token)"]["lines"][0]["x"] == [1, 3]


def test_many_lines_have_fewer_points_each():
    rows = [
        {"step": n} | {f"a.{k}": n * k % 7 for k in range(1, 60)} for n in range(2000)
    ]
    found = curves.groups(Metrics(rows), {})
    count = sum(
        len(line[axis])
        for group in found for chart in group.charts for line in chart["lines"]
        for axis in ("x", "y", "mx", "my") if axis in line
    )  # fmt: skip
    assert count <= 1.1 * curves.MOST_NUMBERS


def test_figures_that_belong_together_share_a_chart():
    def row(step):
        parts = {f"{part}_time": 0.1 * step for part in ("forward", "backward")}
        ratios = {f"group.{name}.update_ratio": 1e-3 for name in ("matrix", "norm")}
        heads = {"attention_sparsity": 0.5, "layers.attention_sparsity": [0.25, 0.75]}
        return {"step": step, **parts, **ratios, **heads, "token_accuracy": step / 9}

    found = drawn([row(1), row(2)])
    names = {
        title: [line["name"] for line in chart["lines"]]
        for title, chart in found.items()
    }
    assert names == {
        "Update over the size of the weights, by kind of tensor": ["matrix", "norm"],
        "Parts of a step": ["forward", "backward"],
        "Sparsity of attention": ["mean of layers", "lowest layer", "highest layer"],
        "token_accuracy": ["value"],
    }
    assert "the highest score" in found["token_accuracy"]["about"]
