"""A language model that halts token by token, through the whole of training."""

from __future__ import annotations

import io
import json
import math
import random
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lumina.batch import Batch
from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.infer.load import load
from lumina.model.build import build_network
from lumina.plan.count import count_parameters
from lumina.plan.flops import flops_per_token
from lumina.plan.shape import resolve_spec
from lumina.train import Trainer
from tiny_runs import story, write_conversations
from training import final_tensors, train_on_two_ranks


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(story())
    return path


def config(text: Path, run: Path, **leaves: Any) -> Config:
    start: dict[str, Any] = {
        "use_hrm": True,
        "hrm_mode": "language_model",
        "train_data": (str(text),),
        "run_dir": str(run),
        "hidden_size": 32,
        "num_heads": 4,
        "num_kv_heads": 2,
        "h_layers": 1,
        "l_layers": 1,
        "expansion": 1.0,
        "halt_max_steps": 3,
        "seq_length": 48,
        "tokenizer_vocab_size": 300,
        "batch_size": 4,
        "steps": 6,
        "save_every_n_batches": 2,
        "learning_rate": 3e-3,
        "eval_batches": 1,
        "device": "cpu",
        "precision": "fp32",
        "seed": 3,
    }
    return Config.resolve().replace(**(start | leaves))


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.thorough
@pytest.mark.covers("MOD-13: ponder behaviour observable in metrics")
@pytest.mark.parametrize("variant", ["hrm", "trm"])
def test_it_learns_text_says_it_and_counts_its_thoughts(
    text: Path, tmp_path: Path, variant: str
) -> None:
    run = tmp_path / "run"
    Trainer(
        config(text, run, steps=60, batch_size=8, hidden_size=64, hrm_variant=variant)
    ).train()
    told = rows(run)
    assert told[0]["loss"] > 5 and told[-1]["loss"] < 1.2
    assert told[-1]["eval_loss"] < 1.3
    for row in told:
        share = row["act.active_share"]
        assert share[0] == 1 and share == sorted(share, reverse=True)
        assert row["act.mean_steps"] == pytest.approx(sum(share))
        assert row["act.halted_share"] == pytest.approx(1 - share[-1], abs=1e-6)
    assert told[-1]["act.accuracy"] > 0.6
    assert 1 <= told[-1]["eval_mean_steps"] <= 3
    assert ("act.continue_loss" in told[0]) == (variant == "hrm")
    if variant == "trm":
        return
    assert told[0]["act.mean_steps"] == 3 > told[-1]["act.mean_steps"] > 1
    assert told[-1]["eval_mean_steps"] < 3
    said = io.StringIO()
    with redirect_stdout(said):
        command = f"generate {run} --temperature 0 --max-new-tokens 12 --device cpu"
        assert main([*command.split(), "--prompt", "The cat"]) == 0
    assert "went to the" in said.getvalue()
    with pytest.raises(LuminaError, match="hrm"):
        from lumina.state.huggingface import export_folder

        network, tokenizer = load(run, "cpu")
        export_folder(network, tokenizer, tmp_path / "out")


@pytest.mark.thorough
def test_nothing_is_learned_from_random_tokens(text: Path) -> None:
    """It sees nothing of what is to come: held-out loss stays at ln V."""
    spec = resolve_spec(config(text, Path("x")), 64)
    network = build_network(spec, seed=0).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    g = torch.Generator().manual_seed(0)

    def batch() -> Batch:
        ids = torch.randint(0, 64, (16, 33), generator=g)
        return Batch.from_rows(ids[:, :-1], ids[:, 1:])

    for _ in range(60):
        losses, aux = network(batch())
        total = losses.loss_sum + aux["act.halt_loss"] + aux["act.continue_loss"]
        (total / losses.weight_sum).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        held_out, _ = network.eval()(batch())
    loss = (held_out.loss_sum / held_out.weight_sum).item()
    assert math.log(64) - 0.02 < loss < math.log(64) + 0.3


def test_halting_is_learned_from_the_answers_of_conversations(tmp_path: Path) -> None:
    """Losses are means over the tokens with a label, however few they are.

    A new head says -5 of every token: what it loses is 5 for each that is right.
    """
    data, run = tmp_path / "talk.jsonl", tmp_path / "run"
    write_conversations(data)
    Trainer(config(data, run, steps=1)).train()
    (row,) = rows(run)
    surely = math.log1p(math.exp(-5))
    wanted = surely + 5 * (1 - row["act.q_accuracy"])
    assert row["act.halt_loss"] == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_the_run_that_never_stopped(
    text: Path, tmp_path: Path, precision: str
) -> None:
    """Exploration draws by the step, so nothing of it needs saving."""
    more = {"precision": precision, "halt_exploration": 0.5, "lr_scheduler": "constant"}
    Trainer(config(text, tmp_path / "whole", **more)).train()
    Trainer(config(text, tmp_path / "parts", **more, steps=4)).train()
    Trainer(
        Config(resume=str(tmp_path / "parts"), steps=6)  # type: ignore[arg-type]
    ).train()
    whole, parts = final_tensors(tmp_path / "whole"), final_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, parts[name]), name
    kept = ("loss", "act.halt_loss", "act.active_share")
    one, two = (
        [[row[k] for k in kept] for row in rows(tmp_path / run)]
        for run in ("whole", "parts")
    )
    assert one == two


@pytest.mark.thorough
@pytest.mark.parametrize(
    "parallel", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"]
)
def test_two_ranks_learn_what_one_does(
    text: Path, tmp_path: Path, parallel: str
) -> None:
    alone, ranks = tmp_path / "alone", tmp_path / "ranks"
    more = {"batch_size": 2, "halt_exploration": 0.0, "global_batch_size": 4}
    Trainer(config(text, alone, **more, gradient_checkpointing="full")).train()
    train_on_two_ranks(config(text, ranks, **more, parallel=parallel))
    for name in ("loss", "act.halt_loss", "act.mean_steps", "grad_norm"):
        one, two = (torch.tensor([r[name] for r in rows(x)]) for x in (alone, ranks))
        torch.testing.assert_close(one, two, rtol=2e-3, atol=1e-4)
    assert rows(alone)[-1]["eval_loss"] == pytest.approx(
        rows(ranks)[-1]["eval_loss"], rel=2e-3
    )


def shape(**leaves: Any) -> Config:
    start: dict[str, Any] = {
        "use_hrm": True,
        "hrm_mode": "language_model",
        "hidden_size": 64,
        "num_heads": 4,
        "num_kv_heads": 2,
        "seq_length": 64,
        "halt_max_steps": 3,
        "h_layers": 1,
        "l_layers": 2,
        "vocab_size": 500,
    }
    return Config.resolve().replace(**(start | leaves))


@pytest.mark.parametrize("variant", ["hrm", "trm"])
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_and_operations_are_those_of_the_model(
    variant: str, tied: bool
) -> None:
    spec = resolve_spec(shape(hrm_variant=variant, tie_embeddings=tied))
    assert spec.padded_vocab_size == 512
    network = build_network(spec, seed=0).train()
    found = sum(p.numel() for p in network.parameters())
    assert count_parameters(spec).total == found
    ids = torch.randint(0, 500, (2, 64))
    with FlopCounterMode(display=False) as counter:
        losses, aux = network(Batch.from_rows(ids, ids))
        (losses.loss_sum + aux["act.halt_loss"]).backward()
    # torch does not see attention on the CPU; the plan leaves out the halting head.
    products = flops_per_token(replace(spec, seq_length=0))
    assert products * ids.numel() == pytest.approx(counter.get_total_flops(), rel=1e-3)
    # Three segments of two low updates and a high one, twice; the last of each learn.
    low, high = 2, 2 if variant == "trm" else 1
    learned = 3 * low if variant == "trm" else low + high
    blocks = 3 * (2 * (2 * low + high) + 2 * learned)
    attention = flops_per_token(spec) - products
    assert attention == blocks * 4 * 64 * 64 / 2


def test_more_segments_are_more_work_and_more_memory() -> None:
    one, three = (resolve_spec(shape(halt_max_steps=m)) for m in (1, 3))
    assert flops_per_token(three) == pytest.approx(3 * flops_per_token(one))
    assert count_parameters(one) == count_parameters(three)


def test_the_plan_says_how_it_reasons(text: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    with redirect_stdout(said):
        command = f"train --preset hrm_text --train-data {text} --steps 9 --dry-run"
        assert main([*command.split(), "--run-dir", str(tmp_path / "run")]) == 0
    told = " ".join(said.getvalue().split())
    assert "2 x (2 + 1) updates a segment, at most 4 segments on each token" in told


def test_what_it_has_not_is_refused() -> None:
    for leaf, value in (("use_moe", True), ("window_size", 32), ("dropout", 0.1)):
        with pytest.raises(LuminaError, match=f"{leaf}.*reasoner") as error:
            shape(**{leaf: value, **({"num_experts": 4} if leaf == "use_moe" else {})})
        assert error.value.code == "E002"
    with pytest.raises(LuminaError, match="tie_embeddings") as error:
        shape(hrm_mode="puzzle", tie_embeddings=True)
    assert "language_model" in (error.value.hint or "")


def test_blocks_compile_to_few_graphs_and_to_no_more() -> None:
    """With and without gradient, in training; the next steps compile nothing."""
    import torch._dynamo

    spec = resolve_spec(shape(h_layers=1, l_layers=1))
    network = build_network(spec, seed=0).train()
    plain = build_network(spec, seed=0).train()
    torch._dynamo.reset()
    graphs = 0

    def count(graph: Any, inputs: Any) -> Any:
        nonlocal graphs
        graphs += 1
        return graph.forward

    for block in network.backbone.blocks:
        block.compile(backend=count, fullgraph=True)
    after = []
    for step in range(3):
        random.seed(step)
        ids = torch.randint(0, 500, (2, 64))
        for one in (network, plain):
            torch.manual_seed(step)
            losses, _ = one(Batch.from_rows(ids, ids))
            losses.loss_sum.backward()
        after.append(graphs)
    assert after[0] == after[-1] <= 4
    for (name, one), two in zip(
        network.named_parameters(), plain.parameters(), strict=True
    ):
        if one.grad is not None:
            torch.testing.assert_close(
                one.grad, two.grad, rtol=1e-3, atol=1e-4, msg=name
            )
    torch._dynamo.reset()
