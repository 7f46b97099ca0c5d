"""Options of kernels under the names of the design documents."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from lumina.assemble.bare_network import build
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.ops.largest_scores import tiles
from lumina.ops.norms_together import operators
from machines import gpu, plan_for
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


@pytest.mark.covers(
    "KRN-14: HYDRA_DISABLE_FUSED_SWIGLU_BWD, ..._RMS_NORM_BWD, ..._QK_NORM_BWD (=1)"
)
@shows("triton_kernels")
def fused(runs: Runs) -> None:
    """The same losses by other operators, whose gradients a variable leaves out."""
    if not torch.cuda.is_available():
        assert "CUDA" in runs.refused("E003", triton_kernels=True)
    able = dataclasses.replace(FEATURES["fused_kernels"], needs=lambda machine: None)
    runs.monkeypatch.setitem(FEATURES, "fused_kernels", able)
    called: dict[str, int] = {}
    for name in ("_swiglu_backward", "_norms_backward"):
        call = getattr(operators, name)

        def counted(*given: Any, name: str = name, call: Any = call) -> Any:
            kind = name if name == "_swiglu_backward" else f"{name} of {len(given[0])}"
            called[kind] = called.get(kind, 0) + 1
            return call(*given)

        runs.monkeypatch.setattr(operators, name, counted)
    options: dict[str, Any] = {"qk_norm": "rms", "steps": 2}
    plain = runs.train(triton_kernels=False, **options)
    assert not called
    run = runs.train(triton_kernels=True, **options)
    # Two steps of two blocks; one norm before each branch, and the last one.
    whole = {"_swiglu_backward": 4, "_norms_backward of 1": 10,
             "_norms_backward of 2": 4}  # fmt: skip
    assert called == whole
    assert run.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)
    switches = {
        "SWIGLU": "_swiglu_backward", "RMS_NORM": "_norms_backward of 1",
        "QK_NORM": "_norms_backward of 2",
    }  # fmt: skip
    for name, kind in switches.items():
        called.clear()
        variable = f"HYDRA_DISABLE_FUSED_{name}_BWD"
        runs.monkeypatch.setenv(variable, "1")
        again = runs.train(triton_kernels=True, **options)
        runs.monkeypatch.delenv(variable)
        assert called == {k: v for k, v in whole.items() if k != kind}
        assert again.column("loss") == pytest.approx(plain.column("loss"), rel=1e-5)


@pytest.mark.covers(
    "KRN-16: --experimental_blackwell_tuning/--no-experimental_blackwell_tuning",
    "KRN-16: --triton_block_q 128 (default 64)",
    "KRN-16: --triton_block_kv 64",
    "KRN-16: --triton_num_warps 8 (4)",
    "KRN-16: num_stages 3 (2)",
    "KRN-16: shared-memory limit checked",
)
@shows(
    "experimental_blackwell_tuning",
    "triton_block_q",
    "triton_block_kv",
    "triton_num_warps",
    "triton_num_stages",
)
def tiles_of_kernels(runs: Runs) -> None:
    """Of GPUs alone; what does not fit on the chip is refused by its size."""
    assert "10.0" in runs.refused("E003", experimental_blackwell_tuning=True)
    assert runs.train(experimental_blackwell_tuning=False, steps=1).first_loss > 0
    for leaf, value in {
        "triton_block_q": 64, "triton_block_kv": 64, "triton_num_warps": 4,
        "triton_num_stages": 3,
    }.items():  # fmt: skip
        assert leaf in runs.refused("E003", **{leaf: value})
    hopper, b200 = gpu(), gpu("NVIDIA B200", 180, (10, 0))
    card = gpu("NVIDIA GeForce RTX 5090", 32, (12, 0))
    start: dict[str, Any] = {"vocab_size": 64, "steps": 10, "global_batch_size": 8}

    def planned(machine: Any, **options: Any) -> Any:
        return plan_for(Config(**(start | options)), machine)

    assert planned(b200).attention_tiles == {}
    tuned = planned(b200, experimental_blackwell_tuning=True, triton_num_warps=4)
    assert tuned.attention_tiles == {
        "queries": 128, "keys": 64, "warps": 4, "stages": 3,
    }  # fmt: skip
    named = planned(hopper, triton_block_q=256, num_stages=3)
    assert named.attention_tiles == {"queries": 256, "stages": 3}
    for machine, room in ((hopper, "227"), (card, "99")):
        with pytest.raises(LuminaError) as caught:
            planned(machine, triton_block_kv=512, triton_num_stages=8, head_dim=128)
        assert caught.value.code == "E003" and f"{room} KiB" in caught.value.message
    with pytest.raises(LuminaError) as caught:
        planned(hopper, triton_block_q=100)
    assert caught.value.code == "E005"
    program = build(tuned)
    assert tuned.attention_tiles == tiles.CHOSEN and program is not None
    build(planned(hopper))
    assert tiles.CHOSEN == {}
