"""The time of a run before it starts: its arithmetic, its range, what it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config
from lumina.plan import product_rate
from lumina.plan.hardware_profiles import ALIASES, PROFILES, find_profile
from lumina.plan.peak import peak_here
from lumina.plan.product_rate import measured_rate
from lumina.plan.speeds import Speed, comparable, remember, speed_of
from lumina.plan.time_estimate import estimate_time, moved_bytes
from machines import cpu, gpu, plan_for

H200 = gpu()


def config(**changes: object) -> Config:
    values = {"steps": 50, "batch_size": 8, "global_batch_size": 16, "compile": False}
    return Config.resolve(preset="dense_125m", flags=values | changes)


def test_a_step_takes_its_operations_over_the_rate() -> None:
    plan = plan_for(config(gradient_checkpointing="none"), H200)
    found = estimate_time(plan, H200, efficiency=0.5, earlier=[])
    tokens = 16 * 2048
    seconds = plan.flops_per_token * tokens / (989e12 * 0.5)
    assert found is not None and not found.measured
    assert found.quick == found.likely == found.slow == pytest.approx(seconds)
    assert found.seconds[1] == pytest.approx(50 * seconds)
    recomputed = plan_for(config(gradient_checkpointing="full"), H200)
    slower = estimate_time(recomputed, H200, efficiency=0.5, earlier=[])
    assert slower is not None
    assert slower.likely == pytest.approx(seconds * 4 / 3)


def test_a_step_is_no_quicker_than_its_weights_are_read_and_written() -> None:
    short = config(seq_length=16, batch_size=1, global_batch_size=1)
    plan = plan_for(short, H200)
    memory = plan.memory
    whole = 3 * memory["weights"] + 2 * memory["gradients"]
    whole += 2 * (memory["master_weights"] + memory["optimizer"])
    assert moved_bytes(plan) == whole
    found = estimate_time(plan, H200, efficiency=1, earlier=[])
    assert found is not None
    assert found.likely == pytest.approx(whole / 4800e9)


def test_ranks_exchange_gradients_and_hide_all_half_or_none_of_it() -> None:
    machine = gpu(device_count=4)
    plan = plan_for(config(parallel="ddp", batch_size=4), machine, world_size=4)
    found = estimate_time(plan, machine, efficiency=0.5, earlier=[])
    alone = plan.flops_per_token * 4 * 2048 / (989e12 * 0.5)
    exchange = 2 * plan.parameters * 2 * 3 / 4 / 450e9
    assert found is not None
    times = (alone, alone + exchange / 2, alone + exchange)
    assert (found.quick, found.likely, found.slow) == pytest.approx(times)


def test_what_is_assumed_has_a_range_and_says_so() -> None:
    found = estimate_time(plan_for(config(), H200), H200, earlier=[])
    assert found is not None
    assert found.quick < found.likely < found.slow
    assert "assumed" in found.in_words() and "H200" in found.why
    eager, compiled = (
        estimate_time(plan_for(config(compile=c), H200), H200, earlier=[])
        for c in (False, True)
    )
    assert eager is not None and compiled is not None
    assert compiled.likely < eager.likely


def test_no_time_where_no_rate_is_known() -> None:
    plan = plan_for(config(precision="fp32"), cpu(memory_bytes=2**40))
    assert estimate_time(plan, cpu(), earlier=[]) is None
    unknown = gpu("an unknown card")
    assert estimate_time(plan_for(config(), unknown), unknown, earlier=[]) is None


def test_earlier_runs_of_a_like_size_tell_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    plan = plan_for(config(), H200)
    assert comparable(plan, "NVIDIA H200") == []
    smaller = plan_for(config(seq_length=1024), H200)
    others = [
        speed_of(plan_for(config(compile=True), H200), "NVIDIA H200", 9e14),
        speed_of(plan, "another card", 8e14),
        speed_of(smaller, "NVIDIA H200", 2e14),
        speed_of(plan, "NVIDIA H200", float("nan")),
    ]
    for speed in others:
        remember(speed)
    alike = estimate_time(plan, H200)
    assert alike is not None and alike.measured
    work = plan.flops_per_token * 16 * 2048
    assert alike.likely == pytest.approx(work / 2e14)
    assert alike.slow == pytest.approx(1.6 * alike.likely)
    remember(speed_of(plan, "NVIDIA H200", 3e14))
    with open(tmp_path / "speeds.jsonl", "a") as file:
        file.write('{"half a line\n{}\n')
    same = estimate_time(plan, H200)
    assert same is not None and same.measured and "measured" in same.in_words()
    assert same.likely == pytest.approx(work / 3e14)
    assert same.slow == pytest.approx(1.15 * same.likely)
    assert [speed.rate for speed in comparable(plan, "NVIDIA H200")] == [3e14, 2e14]


def test_runs_of_another_size_tell_nothing() -> None:
    one = Speed("card", 1, "bfloat16", True, "dense", 1e9, 4096, 1e14)
    for far in (
        Speed("card", 1, "bfloat16", True, "dense", 5e9, 4096, 1e14),
        Speed("card", 1, "bfloat16", True, "dense", 1e9, 512, 1e14),
        Speed("card", 2, "bfloat16", True, "dense", 1e9, 4096, 1e14),
        Speed("card", 1, "bfloat16", True, "moe", 1e9, 4096, 1e14),
    ):
        assert not far.tells_of(one)
    assert Speed("card", 1, "bfloat16", True, "dense", 3e9, 2048, 5e13).tells_of(one)


def test_a_processors_rate_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    rates = [2e11, 1e11]
    monkeypatch.setattr(product_rate, "measured_rate", lambda dtype: rates.pop(0))
    plan = plan_for(config(precision="fp32"), cpu(memory_bytes=2**40))
    assert [peak_here(plan, cpu()) for _ in range(2)] == [2e11, 2e11]
    assert peak_here(plan.replace(world_size=2), cpu()) == 1e11
    assert peak_here(plan, H200) == H200.peak_flops["float32"]


def test_products_are_measured() -> None:
    assert measured_rate("float32", seconds=0.0) > 1e8


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_can_be_planned_for(name: str) -> None:
    profile = PROFILES[name]
    machine = profile.machine(cpu(), devices=2)
    config = Config.resolve(preset="debug", flags={"steps": 5})
    plan = plan_for(config, machine)
    assert plan.device == machine.device and profile.source
    if machine.device == "cuda":
        assert estimate_time(plan, machine, earlier=[]) is not None
        assert machine.memory_bytes == int(profile.memory_gib * 2**30)
        volta = profile.capability is not None and profile.capability < (8, 0)
        assert (plan.compute_dtype == "bfloat16") is not volta
    elif profile.memory_gib:
        assert machine.memory_bytes == int(profile.memory_gib * 2**30)


def test_profiles_have_further_names() -> None:
    assert find_profile("A100_80GB")[0] == "a100-80gb"
    for alias, name in ALIASES.items():
        assert find_profile(alias) == (name, PROFILES[name])
