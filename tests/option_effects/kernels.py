"""Options of kernels under the names of the design documents."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from lumina.features import FEATURES
from option_effects import shows
from option_effects.depth import chosen
from recorded_steps import Tape, on_the_cpu
from tiny_runs import Runs, seen


@pytest.mark.covers(
    "KRN-08: --experimental_fa3/--no-experimental_fa3",
    "KRN-08: falls back",
)
@shows("experimental_fa3")
def flash3(runs: Runs) -> None:
    """Asked for, it gives way with the reason; left out, it may not be named."""
    asked = runs.train(experimental_fa3=True, steps=1)
    assert "flash3 is not available here" in " ".join(asked.printed.split())
    assert "flash3" in runs.refused("E003", experimental_fa3=True, strict=True)
    runs.refused("E002", experimental_fa3=False, attention="flash3")
    runs.refused("E002", experimental_fa3=True, attention="sdpa")


@pytest.mark.covers("KRN-17: --experimental_fp8/--no-experimental_fp8 (default off)")
@shows("experimental_fp8")
def float8(runs: Runs) -> None:
    """A CPU has no such products; left out, no precision may name them."""
    assert "9.0" in runs.refused("E003", experimental_fp8=True, precision="auto")
    runs.refused("E002", experimental_fp8=True, precision="fp32")
    runs.refused("E002", experimental_fp8=True, precision="auto", amp=False)
    runs.refused("E002", experimental_fp8=False, precision="mixed_fp8")
    assert runs.train(experimental_fp8=False, steps=1).first_loss > 0


@pytest.mark.covers("KRN-17: --fp8_format e4m3, e5m2")
@shows("fp8_format")
def format_of_float8(runs: Runs) -> None:
    """Of e5m2 cuBLAS lacks a product, which is said before the machine is asked."""
    named = {"experimental_fp8": True, "precision": "auto"}
    assert "9.0" in runs.refused("E003", fp8_format="e4m3", **named)
    assert "two float8 e5m2" in runs.refused("E003", fp8_format="e5m2", **named)
    runs.refused(
        "E002", fp8_format="e4m3", experimental_fp8=True, precision="mixed_fp8"
    )


@pytest.mark.covers("KRN-22: cuDNN benchmark mode")
@shows("cudnn_benchmark")
def cudnn(runs: Runs) -> None:
    """It needs a GPU; a run sets torch's switch, and sets it back."""
    if not torch.cuda.is_available():
        assert "CUDA" in runs.refused("E003", cudnn_benchmark=True)
    runs.refused("E002", cudnn_benchmark=True, deterministic=True)
    found: list[bool] = []
    look = seen(lambda p, b: torch.backends.cudnn.benchmark, found)
    runs.monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    runs.train(look, cudnn_benchmark=False, steps=1)
    assert found == [False] and torch.backends.cudnn.benchmark


@pytest.mark.covers(
    "KRN-12: --static_routing_mode/--no-static_routing_mode (default off)"
)
@shows("static_routing_mode")
def static_routing(runs: Runs) -> None:
    """Every token goes through every layer; experts must not have sizes that vary."""
    depth = {"use_mod": True, "mod_pattern": "all"}
    dynamic, static = runs.both("static_routing_mode", False, True, **depth)
    named = runs.train(mod_mode="static", **depth)
    assert chosen(dynamic) and not chosen(static)
    assert static.column("loss") == named.column("loss") != dynamic.column("loss")
    recursions = {"use_mor": True, "num_layers": 3}
    deep = runs.train(static_routing_mode=True, **recursions)
    same = runs.train(mor_mode="static", **recursions)
    assert deep.column("loss") == same.column("loss")
    experts = {"use_moe": True, "num_experts": 4, "static_routing_mode": True}
    assert "sizes that vary" in runs.refused("E002", **experts)
    assert runs.train(moe_dispatch="capacity", steps=1, **experts).first_loss > 0
    runs.refused("E002", mor_routing="token_choice", static_routing_mode=True,
                 **recursions)  # fmt: skip
    runs.refused("E002", mod_routing_strategy="fixed", static_routing_mode=True,
                 **depth)  # fmt: skip


@pytest.mark.covers(
    "KRN-10: --experimental_cuda_graphs/--no-experimental_cuda_graphs",
    "KRN-10: --cuda_graphs_warmup 50",
)
@shows("experimental_cuda_graphs", "cuda_graphs_warmup")
def graphs(runs: Runs) -> None:
    """A CPU has none; where there are some, they begin after the warm-up."""
    if not torch.cuda.is_available():
        assert "CUDA" in runs.refused("E003", experimental_cuda_graphs=True)
    launched: list[int] = []
    launch = Tape.launch
    runs.monkeypatch.setattr(
        Tape, "launch", lambda tape: (launched.append(1), launch(tape))[1]
    )
    losses = []
    with on_the_cpu(runs.monkeypatch):
        for on, warm_up, count in ((False, 2, 0), (True, 2, 5), (True, 4, 3)):
            launched.clear()
            run = runs.train(
                experimental_cuda_graphs=on, cuda_graphs_warmup=warm_up, steps=7
            )
            losses.append(run.column("loss"))
            assert len(launched) == count
    assert losses[0] == losses[1] == losses[2]


@shows("fp8_scaling", "fp8_experts")
def scales_of_float8(runs: Runs) -> None:
    """Losses differ with what is scaled, and with what multiplies float8."""
    for name in ("fp8", "fp8_experts"):
        able = dataclasses.replace(FEATURES[name], needs=lambda machine: None)
        runs.monkeypatch.setitem(FEATURES, name, able)
    losses = set()
    for scaling, experts in (("tensor", False), ("rows", False), ("tensor", True)):
        run = runs.train(
            precision="mixed_fp8",
            fp8_scaling=scaling,
            fp8_experts=experts,
            use_moe=True,
            num_experts=4,
            steps=1,
        )
        losses.add(run.first_loss)
    assert len(losses) == 3
    message = runs.refused("E002", precision="fp32", use_moe=True, fp8_experts=True)
    assert "fp8_experts multiplies float8" in message
