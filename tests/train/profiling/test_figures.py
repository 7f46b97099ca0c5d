"""The arithmetic of profiles: parts of a step, what is there at a peak, the advice."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.config import Config
from lumina.train.profiling.advice import Facts, what_to_try
from lumina.train.profiling.allocations import Allocation, at_peak, cpu_events
from lumina.train.profiling.memory import parts_of
from lumina.train.profiling.phases import phase_rows, step_time
from lumina.train.profiling.training import TrainingProfile
from machines import cpu, gpu, plan_for

MARKED = {"forward": 0.3, "backward": 0.4, "optimizer": 0.1}


def test_what_is_left_of_a_step_is_the_rest() -> None:
    one = step_time(1.0, 0.05, MARKED)
    assert one.parts["rest"] == pytest.approx(0.15)
    assert step_time(0.5, 0.05, MARKED).parts["rest"] == 0
    rows = {row.name: row for row in phase_rows([one, step_time(2.0, 0.25, MARKED)])}
    assert list(rows) == ["data", "forward", "backward", "optimizer", "rest"]
    assert rows["data"].median == pytest.approx(0.15)
    assert rows["data"].slowest == pytest.approx(0.25)
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert rows["backward"].share == pytest.approx(0.4 / 1.5)


def test_the_peak_is_what_is_there_when_most_is() -> None:
    events = [
        (1, 100, "a"),
        (2, 50, "b"),
        (1, -100, ""),
        (3, 80, "b"),
        (9, -500, ""),  # was there before
        (4, 30, "c"),
        (2, -50, ""),
        (5, 20, "a"),
    ]
    peak, live = at_peak(events)
    assert peak == 160
    assert live == [Allocation("b", 130, 2), Allocation("c", 30, 1)]
    assert at_peak([(1, 10, "a"), (2, 5, "b")])[1] == [
        Allocation("a", 10, 1),
        Allocation("b", 5, 1),
    ]
    assert at_peak([]) == (0, [])


def test_an_allocation_belongs_to_the_innermost_operation() -> None:
    def span(name: str, begin: float, length: float) -> dict[str, Any]:
        return {"cat": "cpu_op", "name": name, "ts": begin, "dur": length, "tid": 1}

    def memory(at: float, size: int, thread: int = 1) -> dict[str, Any]:
        arguments = {"Addr": 7, "Bytes": size}
        return {"name": "[memory]", "ts": at, "tid": thread, "args": arguments}

    events = [
        span("outer", 0, 10),
        span("inner", 2, 3),
        memory(1, 1),
        memory(4, 2),
        memory(8, -3),
        memory(12, 4),
        memory(3, 5, thread=2),
    ]
    assert cpu_events(events) == [
        (7, 1, "outer"),
        (7, 5, "outside of operations"),
        (7, 2, "inner"),
        (7, -3, "outer"),
        (7, 4, "outside of operations"),
    ]


def test_the_parts_of_memory_add_up_to_the_plans() -> None:
    plan = plan_for(
        Config.resolve(preset="debug", flags={"steps": 5, "ema_decay": 0.9})
    )
    held = {"model": 100, "optimizer": 200, "gradient": 50}
    parts = parts_of(plan, held, 1000, on_gpu=True)
    assert sum(part.planned for part in parts) == plan.memory["expected"]
    assert [part.measured for part in parts] == [100, 200, 700]
    assert parts[1].planned == plan.memory["optimizer"] + plan.memory["ema"]


def facts(machine: Any, profile: TrainingProfile, **options: Any) -> list[str]:
    flags = {"steps": 5, "batch_size": 2, "global_batch_size": 8} | options
    plan = plan_for(Config.resolve(preset="debug", flags=flags), machine)
    return what_to_try(Facts(plan, machine, profile, threads=1))


def profiled(parts: dict[str, float], **changes: Any) -> TrainingProfile:
    whole = sum(parts.values())
    step = step_time(
        whole, parts["data"], {k: v for k, v in parts.items() if k != "data"}
    )
    return TrainingProfile(steps=[step], **changes)


SOUND = {"data": 0.01, "forward": 0.3, "backward": 0.6, "optimizer": 0.05}


def test_each_finding_names_the_option_that_helps() -> None:
    card = gpu()
    quiet = profiled(SOUND, busy=0.95, memory_peak=int(0.8 * card.memory_bytes))
    assert facts(card, quiet, compile=True) == []
    waits = profiled(SOUND | {"data": 0.5})
    assert any("--prefetch-factor" in text for text in facts(cpu(cores=1), waits))
    updates = profiled(SOUND | {"optimizer": 0.6})
    assert any("--global-batch-size" in t for t in facts(cpu(cores=1), updates))
    assert facts(cpu(cores=2), profiled(SOUND))[-1].endswith("OMP_NUM_THREADS=2")
    idle = facts(card, profiled(SOUND, busy=0.4), compile=False, precision="fp32")
    found = "\n".join(idle)
    for option in (
        "--compile",
        "--precision bf16",
        "40% of the traced",
        "--batch-size",
    ):
        assert option in found
    roomy = profiled(SOUND, busy=0.9, memory_peak=2**30)
    assert any("above 2" in text for text in facts(card, roomy, compile=True))
    again = {"compile": True, "gradient_checkpointing": "full"}
    assert any("checkpointing none" in text for text in facts(card, quiet, **again))
