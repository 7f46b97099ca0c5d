"""Runs whose base is in few bits, and runs that train for few bits."""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from lumina.infer.load import filled_network
from lumina.model.stored import stored_pieces
from lumina.ops.low_bits.codec import found_codec
from lumina.state.weights import open_weights
from lumina.train import start
from lumina.train.held_out import held_out_batches
from tiny_runs import EXPERTS, Run, Runs, seen

PEFT = {"use_peft": True, "lora_r": 4, "lora_dropout": 0.2, "hidden_size": 64}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def looked_at(program: Program, _: Any) -> dict[str, Any]:
    """What a step's program holds of its base, and its bytes."""
    packed = stored_pieces(program.network)
    return {
        "codecs": {one.codec for one in packed.values()},
        "names": set(packed),
        "bytes": program.held["model"],
        "planned": program.plan.memory["weights"],
    }


def whole(run: Run) -> dict[str, torch.Tensor]:
    weights = open_weights(run.folder)
    found = {name: weights.source.tensor(name) for name in weights.source.names()}
    weights.close()
    return found


@pytest.mark.covers(
    "PRC-15: frozen 4-bit base plus adapters",
    "PRC-16: --load-in-4bit",
    "MOD-40: quantised",
)
def test_adapters_train_on_a_base_in_4_bits_and_go_on_to_the_bit(runs: Runs) -> None:
    base = runs.train(hidden_size=64)
    started = PEFT | {"init_from": str(base.folder), "load_in_4bit": True}
    found: list[dict[str, Any]] = []
    straight = runs.train(seen(looked_at, found), steps=4, **started)
    assert found[0]["codecs"] == {"nf4_double"}
    assert {n.split(".")[-2] for n in found[0]["names"]} == {
        "q", "k", "v", "out", "gate", "up", "down",
    }  # fmt: skip
    wide_base = runs.train(steps=4, **(started | {"load_in_4bit": False}))
    pairs = zip(straight.column("loss"), wide_base.column("loss"), strict=True)
    assert all(0 < abs(few - wide) < 0.5 for few, wide in pairs)
    assert all(".adapters." in name for name in straight.tensors)

    (told,) = [one for one in straight.events if one["kind"] == "base_in_few_bits"]
    figures = told["data"]
    assert figures["tensors"] == len(found[0]["names"])
    assert 0.05 < figures["mean_error"] <= figures["largest_error"] < 0.15
    assert "nf4_double" in straight.printed

    half = runs.train(steps=2, **started)
    gone_on = runs.train(resume=str(half.folder), run_dir=None, steps=4, hidden_size=64)
    assert gone_on.column("loss") == straight.column("loss")
    after = straight.tensors
    assert all(torch.equal(one, after[n]) for n, one in gone_on.tensors.items())

    # What the run trained is used afterwards: the values that the few bits stand for.
    used, wide = whole(straight), whole(base)
    for name in found[0]["names"]:
        assert 0 < (used[name] - wide[name]).abs().max() < wide[name].abs().max()
    name = "backbone.embedding.weight"
    assert torch.equal(used[name], wide[name])


@pytest.mark.covers(
    "MEM-10: 4-bit base weights",
    "MEM-10: one memory plan",
)
def test_the_plan_counts_the_base_in_few_bits_to_the_byte(runs: Runs) -> None:
    """Beside it, in one plan, optimizer states of 8 bits."""
    base = runs.train(hidden_size=64, steps=1)
    started = PEFT | {"init_from": str(base.folder), "optimizer": "adamw_8bit"}
    found: list[dict[str, Any]] = []
    for options in ({}, {"load_in_8bit": True}, {"load_in_4bit": True}):
        runs.train(seen(looked_at, found), steps=1, **started, **options)
    for one in found:
        assert abs(one["planned"] - one["bytes"]) <= 0.01 * one["bytes"], found
    wide, eight, four = (one["bytes"] for one in found)
    assert four < 0.9 * eight < 0.81 * wide


@pytest.mark.thorough
@pytest.mark.covers("PRC-15: frozen 4-bit base plus adapters")
def test_experts_are_in_few_bits_too(runs: Runs) -> None:
    base = runs.train(hidden_size=64, **EXPERTS)
    found: list[dict[str, Any]] = []
    run = runs.train(
        seen(looked_at, found),
        **PEFT,
        init_from=str(base.folder),
        quantization_method="bnb",
        steps=4,
    )
    experts = [n for n in found[0]["names"] if n.endswith((".gate", ".up", ".down"))]
    assert len(experts) == 6 and run.rows[-1]["step"] == 4


def test_few_bits_are_refused_where_nothing_would_use_them(runs: Runs) -> None:
    said = runs.refused("E002", load_in_4bit=True)
    assert "nothing trains beside them" in said
    peft = {"use_peft": True, "init_from": "x"}
    both = runs.refused("E002", load_in_4bit=True, load_in_8bit=True, **peft)
    assert "both" in both
    wrong = {"quantization_method": "fp8", "quantization_bits": 4}
    assert "no codes of 4 bits" in runs.refused("E002", **wrong, **peft)
    assert "others are named" in runs.refused(
        "E002", load_in_8bit=True, quantization_bits=4, **peft
    )
    assert "freezes" in runs.refused("E002", quantization_method="quanto", **peft)
    bits = {"quantization_method": "bnb", "quantization_bits": 3}
    assert "no codes of 3 bits" in runs.refused("E002", **bits, **peft)


@pytest.mark.covers("PRC-13: inference only", "PRC-10: quantization_method gptq")
def test_gptq_is_refused_in_training_and_says_where_it_is(runs: Runs) -> None:
    for bits in (4, 3, 2):
        asked = {"quantization_method": "gptq", "quantization_bits": bits}
        assert "nothing trains with it" in runs.refused("E003", **asked)


def test_every_matrix_has_its_error_in_the_events_and_the_report(runs: Runs) -> None:
    base = runs.train(hidden_size=64, steps=1)
    started = PEFT | {"init_from": str(base.folder), "load_in_8bit": True, "steps": 1}
    run = runs.train(**started)
    (told,) = [one for one in run.events if one["kind"] == "base_in_few_bits"]
    errors = told["data"]["errors"]
    wide, codec = whole(base), found_codec("int8")
    assert len(errors) == told["data"]["tensors"]
    for name, error in errors.items():
        held = codec.pack(wide[name]).unpacked()
        expected = (held - wide[name]).norm() / wide[name].norm()
        assert error == pytest.approx(float(expected), rel=1e-4)
    page = (run.folder / "report.html").read_text()
    assert all(name in page for name in errors)
    assert f"{max(errors.values()):.3%}" in page
    assert not [one for one in run.events if one["kind"] == "cost_of_few_bits"]


@pytest.mark.parametrize("moe", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_few_bits_cost_is_measured_on_held_out_text(moe: bool, runs: Runs) -> None:
    """Against two whole models, loaded apart; with adapters that begin beside zero."""
    shape = {"hidden_size": 64, "eval_fraction": 0.3, "eval_batches": 8}
    base = runs.train(steps=12, **shape, **(EXPERTS if moe else {}))
    started = PEFT | shape | {"init_from": str(base.folder), "steps": 1}
    few = runs.train(
        **started,
        load_in_4bit=True,
        peft_method="loftq",
        quantization_eval_batches=2,
    )
    (told,) = [one for one in few.events if one["kind"] == "cost_of_few_bits"]
    found = told["data"]
    assert f"{found['perplexity']:,.5g}" in few.printed
    assert f"{found['divergence']:.4g} nats" in (few.folder / "report.html").read_text()

    weights = open_weights(base.folder)
    codec, place = found_codec("nf4_double"), torch.device("cpu")
    exact, rounded = (
        filled_network(weights, place, torch.float32, one).eval()
        for one in (None, codec)
    )
    batches: list[Any] = []
    data_of: list[Any] = []

    def noted(program: Program, _: Any) -> None:
        data = data_of.pop()
        batches.extend(islice(held_out_batches(data, program), 2))

    with pytest.MonkeyPatch.context() as patched:
        original = start.cost_of_few_bits

        def kept(program: Program, data: Any, *more: Any) -> Any:
            data_of.append(data)
            return original(program, data, *more)

        patched.setattr(start, "cost_of_few_bits", kept)
        runs.train(
            seen(noted, []),
            **started,
            load_in_4bit=True,
            quantization_eval_batches=2,
        )
    apart = before = after = 0.0
    tokens = 0
    for batch in batches:
        counted = batch.labels != -100
        with torch.no_grad():
            one, other = (
                network.objective.logits(
                    network.backbone(batch, None).hidden, network.output_matrix
                )[counted].log_softmax(-1)
                for network in (exact, rounded)
            )
        labels = batch.labels[counted][:, None]
        apart += float((one.exp() * (one - other)).sum())
        before -= float(one.gather(1, labels).sum())
        after -= float(other.gather(1, labels).sum())
        tokens += int(counted.sum())
    assert found["tokens"] == tokens > 100
    assert found["divergence"] == pytest.approx(apart / tokens, rel=1e-3)
    assert found["divergence"] > 1e-5
    expected = math.exp(before / tokens), math.exp(after / tokens)
    pair = found["perplexity_before"], found["perplexity"]
    assert pair == pytest.approx(expected, rel=1e-5)


def test_a_base_that_cannot_be_compared_is_refused(runs: Runs) -> None:
    base = runs.train(hidden_size=64, steps=1)
    started = PEFT | {"init_from": str(base.folder), "load_in_4bit": True}
    started |= {"eval_fraction": 0.0}
    said = runs.refused("E002", **started, quantization_eval_batches=1)
    assert "nothing is held out" in said
