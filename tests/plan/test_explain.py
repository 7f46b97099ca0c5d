from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.observe.banner import banner_lines
from lumina.plan.count import count_parameters
from lumina.plan.doctor import report
from lumina.plan.explain import explain
from lumina.plan.shape import resolve_spec
from lumina.quantities import duration
from machines import cpu, gpu, plan_for


@pytest.mark.covers("DIA-02")
def test_the_text_holds_counts_memory_work_and_reasons() -> None:
    config = Config.resolve(preset="debug", flags={"steps": 100, "epochs": 90})
    plan = plan_for(config, world_size=2)
    text = explain(plan, cpu(), rows_per_epoch=800, stats={"train_bytes": 123456})
    counts = count_parameters(resolve_spec(config))
    assert f"{counts.total:,}" in text
    assert f"{counts.experts:,}" in text
    assert "of them" in text
    assert f"{100 * 16 * 256:,} at most" in text
    assert "123,456" in text
    assert f"{800 * 256:,}" in text
    assert "time         unknown" in text
    for field in ("micro_batch_size", "compute_dtype", "warmup_steps", "parallel"):
        line = next(x for x in text.splitlines() if x.strip().startswith(field))
        assert plan.reasons[field] in line


SAID = [
    (dict(tasks=["a=x", "b=y"]), "a head each for the tasks a, b"),
    (dict(pos_encodings="learned", window_size=8), "window 8, positions learned"),
    (dict(use_stable_embedding=True), "stable embedding"),
    (dict(use_moe=True, num_experts=4, overflow="tight"), "capacity (tight"),
    (
        dict(use_mor=True, num_layers=4, mor_routing="token_choice"),
        "up to 2 times",
    ),
    (
        dict(use_mor=True, num_layers=4, mor_kv_sharing=True),
        "dynamic, keys of the first pass",
    ),
]


@pytest.mark.parametrize(("leaves", "says"), SAID)
def test_a_dry_run_and_the_banner_say_what_kind_of_model(
    leaves: dict[str, object], says: str
) -> None:
    plan = plan_for(Config(steps=5, vocab_size=64, **leaves))
    banner = " ".join(" ".join(banner_lines(plan, cpu(), None, None)).split())
    for text in (explain(plan), banner):
        assert says in text
        assert ("token choice" in text) == ("mor_routing" in leaves)


def test_a_time_only_where_the_speed_was_measured() -> None:
    plan = plan_for(Config.resolve(preset="debug", flags={"steps": 100}))
    text = explain(plan, tokens_per_second=4096)
    assert "100 s at 4,096/s" in text
    assert "Data\n  unknown" in text


def test_warnings_are_shown() -> None:
    plan = plan_for(Config(vocab_size=64, steps=5, seq_length=300))
    assert "- seq_length 300 is not a power of two" in explain(plan)


def test_durations() -> None:
    assert duration(90) == "90 s"
    assert duration(3000) == "50 min"
    assert duration(12000) == "3 h 20 min"
    assert duration(400000) == "4.6 days"


@pytest.mark.covers("DIA-01: hardware, versions, memory, optional packages")
@pytest.mark.parametrize("machine", [cpu(), gpu(), gpu("a card", 24, (7, 5))])
def test_the_doctor_reports_every_part(machine: object) -> None:
    rows = {(row.section, row.name): row for row in report(machine)}  # type: ignore[arg-type]
    assert rows["packages", "torch"].status == "ok"
    assert rows["software", "torch"].value == "2.13.0"
    on_gpu = machine.device == "cuda"  # type: ignore[attr-defined]
    assert rows["hardware", "GPU"].status == ("ok" if on_gpu else "absent")
    flash2 = rows["kernels", "FlashAttention-2"].status
    recent = (machine.capability or (0, 0)) >= (8, 0)  # type: ignore[attr-defined]
    assert flash2 == ("ok" if recent else "absent")
    if on_gpu and not recent:
        assert "unknown" in rows["hardware", "peak bfloat16"].value
        assert rows["precision", "bf16"].status == "absent"


def test_every_kind_of_value_is_shown() -> None:
    """Those of a mapping under their names, also where mappings are nested."""
    config = Config.resolve(
        preset="debug",
        flags={
            "optimizer": "sgd",
            "optimizer_options": ("momentum=0.5",),
        },
    )
    plan = plan_for(config)
    told = explain(plan, cpu())
    lines = told.splitlines()
    # What nothing decided stands together below what was decided.
    start = next(i for i, x in enumerate(lines) if x.startswith("  the default: "))
    together = " ".join(" ".join(lines[start:]).split())
    assert "measures accuracy=1 log_z=1 gradient_variance=10 " in together
    places = {"parameters", "active_parameters", "flops_per_token", "memory"}
    for name, why in plan.reasons.items():
        if hasattr(plan, name) and name not in places:
            by_itself = [x for x in lines[:start] if x.split()[:1] == [name]]
            assert bool(by_itself) == (why != "the default"), name
            assert by_itself or f" {name} " in together, name
    options = next(x for x in lines if x.strip().startswith("optimizer_options"))
    assert "sgd.momentum=0.5" in options
