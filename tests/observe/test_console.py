from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from import_path import finding
from lumina.config.provenance import Source
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.observe.console import Console
from lumina.observe.run_figures import RunFigures
from lumina.plan.plan import Plan

SPEC = ModelSpec(
    vocab_size=4000,
    padded_vocab_size=4032,
    hidden_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    intermediate_size=384,
    seq_length=256,
)
PLAN = Plan(
    spec=SPEC,
    steps=200,
    parameters=1_234_567,
    active_parameters=1_234_567,
    micro_batch_size=4,
    grad_accum=2,
    global_batch_size=8,
    log_every=10,
    memory={"weights": 2**22, "optimizer": 2**23, "total": 3 * 2**22},
    reasons={"compute_dtype": "the CPU has AMX", "compile": "no compiler here"},
    warnings=("the corpus is seen 40 times",),
)


ENVIRONMENT = SimpleNamespace(
    device="cpu",
    device_name="Some CPU",
    memory_bytes=None,
    host_memory_bytes=16 * 2**30,
    cores=2,
    peak_flops={"float32": None},
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def row(step: int, **more):
    return {
        "step": step,
        "tokens": step * 1000,
        "epoch": step / 50,
        "loss": 5.0,
        "learning_rate": 3e-4,
        "grad_norm": 1.5,
        "skipped": 0,
        "tokens_per_second": 12345.0,
        "step_seconds": 0.5,
        "data_wait_seconds": 0.05,
        "memory_peak_bytes": 2**30,
        "mfu": None,
        **more,
    }


def ticking(step_seconds: float = 1.0):
    now = [0.0]

    def clock() -> float:
        now[0] += step_seconds
        return now[0]

    return clock


def test_banner_says_what_is_active_and_why_on_one_screen():
    out = io.StringIO()
    provenance = {
        "learning_rate": Source("flag", previous="file a.yaml: 0.001"),
        "seed": Source("file", "a.yaml"),
        "hidden_size": Source("preset"),
    }
    stats = {"documents": 1200, "tokens": 3_400_000, "eval_fraction": 0.15}
    Console(stream=out).banner(PLAN, ENVIRONMENT, stats, provenance)
    text = out.getvalue()
    assert "1.235M parameters" in text
    assert "documents 1,200, tokens 3.4M, eval fraction 15.0%" in text
    assert "float32 master weights (the CPU has AMX)" in text
    assert "compile off (no compiler here)" in text
    assert "no MFU" in text and "2 cores" in text and "16.0 GiB" in text
    asked = "learning_rate (flag, overrides file a.yaml: 0.001), seed (file a.yaml)"
    assert asked in " ".join(text.split())
    assert "hidden_size" not in text
    assert "the corpus is seen 40 times" in text
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 110


def test_banner_says_a_shape_that_came_with_weights_in_one_line():
    out = io.StringIO()
    origin = Source("file", "weights runs/base")
    provenance = {leaf: origin for leaf in ("hidden_size", "num_layers", "vocab_size")}
    provenance["steps"] = Source("flag")
    Console(stream=out).banner(PLAN, ENVIRONMENT, {}, provenance)
    text = " ".join(out.getvalue().split())
    assert "asked for 3 options of weights runs/base, steps (flag)" in text
    assert "hidden_size" not in text


def test_banner_shows_experts_and_a_known_peak():
    moe = MoeSpec(num_experts=8, top_k=2, intermediate_size=96, layers=(1,))
    spec = ModelSpec(**{**SPEC.to_dict(), "moe": moe})
    plan = PLAN.replace(
        spec=spec, active_parameters=900_000, device="cuda", compute_dtype="bfloat16"
    )
    environment = SimpleNamespace(
        device_name="Card", memory_bytes=2**36, peak_flops={"bfloat16": 989e12}
    )
    out = io.StringIO()
    Console(stream=out).banner(plan, environment)
    text = " ".join(out.getvalue().split())
    assert " in layer 1, 2 for each token, dropless" in text
    assert "900,000 used for one token" in text
    assert "MFU against 989 TFLOP/s" in text and "64.0 GiB memory" in text


def test_plain_lines_come_every_log_every_steps():
    out = io.StringIO()
    console = Console(stream=out, clock=ticking())
    console.start(PLAN, 0)
    for step in range(1, 31):
        console.step(row(step))
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "step 1/200",
        "step 10/200",
        "step 20/200",
        "step 30/200",
    ]
    assert "\x1b" not in out.getvalue()
    last = lines[-1]
    assert "loss 5.0000" in last and "learning rate 3.00e-04" in last
    assert "12.3k tokens/s" in last and "memory 1.0 GiB" in last and "MFU" not in last
    assert last.endswith("2:50 left")  # 170 steps left at one a second


def test_no_line_of_a_step_or_an_event_is_longer_than_100_characters():
    """A routed model on a large card has more to say than fits: the least gives way."""
    out = io.StringIO()
    console = Console(stream=out, clock=ticking())
    console.start(PLAN, 0)
    long = row(1) | {
        "mfu": 0.384,
        "skipped": 3,
        "memory_peak_bytes": 98 * 2**30,
        "moe.load": [[0.25, 0.25, 0.5, 0.0]] * 2,
        "moe.balance_loss": 0.01,
        "moe.z_loss": 0.002,
        "moe.dropped_fraction": [0.1, 0.2],
    }
    console.step(long)
    console.step(long | {"step": 10})
    console.event({"severity": "warning", "message": "a warning of many words " * 9})
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 100 for line in lines)
    step = lines[1]
    assert step.startswith("step 10/200  ") and step.endswith(" left")
    for needed in ("loss 5.0000", "tokens/s", "skipped 3", "memory 98.0 GiB"):
        assert needed in step
    assert " ".join(line.strip() for line in lines[2:]).count("of many words") == 9


def test_the_speed_outlasts_the_skipped_steps():
    """Where even the figures that matter most have no room together."""
    out = io.StringIO()
    console = Console(stream=out, clock=ticking())
    steps = 10**13
    console.start(PLAN.replace(steps=steps), 0)
    for step in (1, steps - 10):
        console.step(row(step, skipped=10**20))
    line = out.getvalue().splitlines()[-1]
    assert f"step {steps - 10:,}/{steps:,}" in line and "loss 5.0000" in line
    assert "12.3k tokens/s" in line and "skipped" not in line


def test_resumed_run_counts_only_its_own_steps_for_the_eta():
    out = io.StringIO()
    console = Console(stream=out, clock=ticking(2.0))
    console.start(PLAN, 190)
    for step in range(191, 201):
        console.step(row(step))
    assert "step 191/200" in out.getvalue()
    assert "0:18 left" in out.getvalue().splitlines()[0]


@pytest.mark.covers(
    "MON-07: epoch, step, elapsed",
    "MON-07: loss, PPL, LR, GradNorm, Tokens/s",
    "MON-07: batch, beta, workers",
    "MON-07: GPU used/total, strategy",
    "MON-07: MoE balance, experts used, routing loss",
    "MON-07: validation PPL, best PPL and step",
)
def test_live_block_shows_the_figures_and_events_above():
    moe = {
        "moe.load": [[0.5, 0.5, 0.0], [0.2, 0.4, 0.4]],
        "moe.balance_loss": 1.25,
        "training_health_score": 90,
        "moe.dropped_fraction": [0.0, 0.0],
    }
    out = Terminal()
    console = Console(stream=out, live=True, clock=ticking(0.5))
    console.banner(PLAN, SimpleNamespace(memory_bytes=2**31, peak_flops={}))
    console.start(PLAN, 0, {"workers": "3"})
    console.step(row(1, **moe, mfu=0.41))
    console.eval(1, 4.5)
    console.event(
        {"severity": "warning", "code": "E302", "step": 2, "message": "gradient nan"}
    )
    console.step(row(2, **moe, mfu=0.41, skipped=1))
    console.finish({"reason": "done", "steps": 2})
    text = out.getvalue()
    for part in (
        "step 2/200",
        "41.0%",
        "1.0 GiB of 2.0 GiB",
        "balance",
        "skipped",
        "90.02",
    ):
        assert part in text, part
    assert "warning at step 2 E302: gradient nan" in text
    bare = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    # Layer one: std 0.2357, mean 1/3; layer two: std 0.0943.
    assert "balance 0.51" in bare and "experts used 5 of 6" in bare
    assert "balance loss 1.250" in bare and "dropped" not in bare
    assert "━" in text
    for cell in (
        *("epoch 0.", "loss 5.0000", "ppl 148.41", "lr 3.00e-04", "tok/s 12.3k"),
        *("ranks 1 none", "eval ppl 90.02 at 1", "best ppl 90.02 at 1"),
        *("workers 3", "beta 0.9, 0.95", "health 90 of 100", "0:01 gone"),
    ):
        assert cell in bare, cell
    rows = f"{PLAN.global_batch_size} ({PLAN.micro_batch_size} x {PLAN.grad_accum} x 1)"
    assert f"batch {rows}" in bare
    sgd = RunFigures(clock=ticking())
    sgd.begin(PLAN.replace(optimizer="sgd"), 0, {})
    assert "beta" not in dict(sgd.cells())
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is back


def test_evaluations_know_the_best_one():
    out = io.StringIO()
    console = Console(stream=out)
    console.eval(10, 4.0)
    console.eval(20, 4.2)
    console.finish({"steps": 20})
    first, second, *rest = out.getvalue().splitlines()
    assert "best so far" in first and "best so far" not in second
    assert any("best eval" in line and "at step 10" in line for line in rest)


def test_finish_says_where_things_are_and_what_to_type_next():
    out = io.StringIO()
    console = Console(stream=out)
    console.start(PLAN, 0)
    console.step(row(1))
    console.step(row(7))
    console.finish(
        {
            "reason": "interrupted",
            "steps": 7,
            "final_loss": 4.9,
            "best_eval_loss": 4.8,
            "best_eval_step": 5,
            "run_dir": "runs/x",
            "report": "runs/x/report.html",
            "next": ["lumina chat runs/x"],
        }
    )
    text = out.getvalue()
    assert "step 7/200" in text  # the last row, though not due
    for part in (
        "interrupted",
        "4.8000, perplexity 121.51 at step 5",
        "runs/x/report.html",
        "lumina chat runs/x",
    ):
        assert part in text


def test_other_ranks_are_silent():
    out = io.StringIO()
    console = Console(stream=out, rank=1)
    console.banner(PLAN, ENVIRONMENT)
    console.start(PLAN, 0)
    console.step(row(10))
    console.eval(1, 2.0)
    console.event({"message": "x"})
    console.finish({})
    assert out.getvalue() == ""


def test_ascii_stream_gets_ascii():
    raw = io.BytesIO()
    console = Console(stream=io.TextIOWrapper(raw, encoding="ascii"))
    console.start(PLAN, 0)
    console.step(row(10) | {"loss": None})
    console.message("naïve")
    assert b"loss -" in raw.getvalue() and b"na?ve" in raw.getvalue()


def test_unfinished_rows_and_strange_values_do_not_crash():
    out = io.StringIO()
    console = Console(stream=out)
    console.start(PLAN.replace(steps=0), 0)
    console.step({"step": 10, "loss": float("nan"), "grad_norm": float("inf")})
    console.eval(10, float("nan"))
    console.event({"kind": "something"})
    console.finish({})
    assert "loss —" in out.getvalue() and "info: something" in out.getvalue()


@pytest.mark.parametrize("live", [True, False])
def test_closed_pipe_does_not_stop_the_run(live):
    code = f"""
import sys
from observe.test_console import PLAN, row
from lumina.observe.console import Console
console = Console(live={live})
console.start(PLAN, 0)
for step in range(1, 2000):
    console.step(row(step))
    console.message("x" * 100)
console.finish({{}})
print("alive", file=sys.stderr)
"""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=root,
        env=finding(root / "src", root / "tests"),
    )
    process.stdout.read(10)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(300) == 0, errors
    assert errors == b"alive\n"


@pytest.mark.parametrize("live", [True, False])
def test_steps_between_two_drawings_print_nothing(live):
    """A thousand steps within a thousandth of a second cost no drawing."""
    out = Terminal() if live else io.StringIO()
    console = Console(stream=out, live=live, clock=ticking(1e-6))
    console.start(PLAN.replace(log_every=10**9), 0)
    console.step(row(1))
    before = out.getvalue()
    assert "5.0" in before
    for step in range(2, 1002):
        console.step(row(step))
    assert out.getvalue() == before
    console.close()


@pytest.mark.covers("MON-07: shard, cache")
def test_the_block_of_a_run_tells_how_its_data_is_made(tiny_config, tmp_path):
    import lumina

    for options, wanted in (
        ({"data_loading": "memory"}, ("data memory", "cache", "found")),
        ({"data_loading": "sharded", "shard_size_mb": 7}, ("shard 7 MB",)),
    ):
        out = Terminal()
        config = tiny_config.replace(
            run_dir=str(tmp_path / options["data_loading"]),
            steps=1,
            warmup_steps=0,
            num_workers=2,
            report_samples=0,
            **options,
        )
        lumina.Trainer(config, console=Console(stream=out, live=True)).train()
        bare = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue())
        for part in ("workers 2", *wanted):
            assert part in bare, part
