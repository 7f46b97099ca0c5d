"""Pretests of levers: what they measure, and that nothing of them hides a failure."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from levers_found import findings_of
from lumina.errors import LuminaError
from lumina.guard import identity as identities
from lumina.guard import levers as module
from lumina.guard import pretest_logs
from lumina.guard.findings import Findings
from lumina.guard.identity import identity
from lumina.guard.judge import judge
from lumina.guard.lever_cache import cached, keep, place
from lumina.guard.levers import levers_of, pretest_levers, run_child, used
from lumina.guard.measure import measure
from lumina.guard.programs import ProgramSubject, batches_of, reference_plan
from lumina.guard.thresholds import THRESHOLDS
from lumina.ops import float8
from lumina.ops.float8.scaled import widened
from machines import cpu
from programs import tiny_plan
from training import wait_until

QUICK = dataclasses.replace(THRESHOLDS, batches=3, paired_steps=6, leak_steps=4)
PLAN = tiny_plan(attention="reference", compute_dtype="bfloat16")
TILED = PLAN.replace(feedforward_tile=100, features=())


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))


def _judged(subject: ProgramSubject) -> tuple[bool, str]:
    found = measure(
        "tiled_feedforward",
        ProgramSubject(reference_plan(PLAN)),
        ProgramSubject(PLAN),
        subject,
        batches_of(PLAN, QUICK.batches),
        faster=False,
        limits=QUICK,
    )
    one = judge([found], QUICK)["tiled_feedforward"]
    return one.trusted, one.text


class Wrong(ProgramSubject):
    """A lever that leaves memory behind, or whose checkpoints lose something."""

    kept: list[torch.Tensor]
    garbage: list[Any]
    leaks = loses = False

    def learn(self, batch: Any) -> torch.Tensor:
        if self.leaks:
            self.kept.append(torch.zeros(4096))
            self._leave_garbage()
        return super().learn(batch)

    def _leave_garbage(self) -> None:
        """Of before the steps that are watched, and found while one of them is."""
        step = len(self.kept)
        if step == 1:
            self.garbage = [torch.zeros(100_000)]
            self.garbage.append(self.garbage)
            gc.collect()  # it is now among the objects that are looked at rarely
        elif step == 2:
            self.garbage = []
        elif step == QUICK.paired_steps - 1:
            gc.collect()

    def saved_and_loaded(self, folder: Path) -> ProgramSubject:
        again = super().saved_and_loaded(folder)
        if self.loses:
            again.program.optimizer.begin_anew()
        return again


def _scaled(subject: ProgramSubject, name: str, factor: float) -> ProgramSubject:
    parameter = subject.program.network.get_parameter(name)
    parameter.register_hook(lambda gradient: gradient * factor)
    return subject


def test_a_right_lever_is_trusted_and_wrong_ones_are_not() -> None:
    good, text = _judged(ProgramSubject(TILED))
    assert good and "slope of the gradients" in text
    matrix = "backbone.blocks.1.feedforward.down.weight"
    good, text = _judged(_scaled(ProgramSubject(TILED), matrix, 1.01))
    assert not good and matrix in text and "0.3% is allowed" in text
    good, text = _judged(_scaled(ProgramSubject(TILED), matrix, float("nan")))
    assert not good and f"the gradient of {matrix} is not finite" in text


@pytest.mark.covers("KRN-19")
@pytest.mark.thorough
def test_compiled_blocks_are_a_lever_whose_gradients_are_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the compiler up to its kernels; the real ones run in tests/gpu."""
    compiler = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda f, **_: compiler(f, backend="aot_eager")
    )
    compiled = PLAN.replace(compile=True)
    assert "compile" in levers_of(compiled)
    good, text = _judged(ProgramSubject(compiled))
    assert good and "slope of the gradients" in text
    matrix = "backbone.blocks.1.feedforward.down.weight"
    good, text = _judged(_scaled(ProgramSubject(compiled), matrix, 1.01))
    assert not good and matrix in text


def test_leaks_and_lost_states_of_the_optimizer_are_seen() -> None:
    leaking, losing = Wrong(TILED), Wrong(TILED)
    leaking.kept, leaking.leaks = [], True
    good, text = _judged(leaking)
    assert not good and "memory grew" in text
    losing.loses = True
    good, text = _judged(losing)
    assert not good and "after saving and loading" in text


def test_an_error_of_the_lever_is_what_was_found_of_it() -> None:
    subject = ProgramSubject(TILED)

    def fails(batch: Any) -> Any:
        raise RuntimeError("no kernel for this\nmore")

    subject.passed = fails  # type: ignore[method-assign]
    good, text = _judged(subject)
    assert not good
    assert text == "it fails in a forward and backward pass: RuntimeError: no kernel " \
        "for this"  # fmt: skip


def test_batches_have_the_shapes_and_documents_of_the_run() -> None:
    several, one = batches_of(PLAN, 2).values()
    assert len(several) == len(one) == 2
    for batch in (*several, *one):
        assert batch.input_ids.shape == (8, 48)
        starts = batch.position_ids == 0
        assert bool((starts[:, 0]).all())
        firsts = torch.nonzero(starts.reshape(-1)).reshape(-1)
        assert set(batch.cu_seqlens.tolist()) == {*firsts.tolist(), 8 * 48}
    assert one[0].one_document_rows and int((one[0].position_ids == 0).sum()) == 8
    assert int((several[0].position_ids == 0).sum()) > 8


def _hang(folder: Path) -> list[str]:
    code = (
        "import os, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; "
        f"time.sleep(600)'])\n"
        f"open({str(folder / 'new')!r}, 'w').write(str(child.pid))\n"
        f"os.replace({str(folder / 'new')!r}, {str(folder / 'pid')!r})\n"
        "time.sleep(600)"
    )
    return [sys.executable, "-c", code]


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_a_pretest_that_hangs_is_killed_with_all_that_it_started(
    tmp_path: Path,
) -> None:
    # Long enough on this machine for the pretest to have started something.
    for seconds in (1, 4, 16, 64):
        problem = run_child(_hang(tmp_path), seconds, nice=True)
        assert problem == f"its pretest did not end within {seconds} s"
        if (tmp_path / "pid").exists():
            break
    pid = int((tmp_path / "pid").read_text())
    assert wait_until(lambda: _gone(pid))
    ended = "import sys; print('why', file=sys.stderr); sys.exit(3)"
    assert run_child([sys.executable, "-c", ended], 60.0, nice=False) == (
        "its pretest ended with code 3: why"
    )
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_child([sys.executable, "-c", killed], 60.0, nice=False) == (
        "its pretest was killed by signal 9"
    )


def _processes(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[list[str]], Findings | str]
) -> list[list[str]]:
    """Stand in for the process of a pretest: what it was asked for, call by call."""
    asked: list[list[str]] = []

    def run(command: list[str], timeout: float, *, nice: bool) -> str | None:
        request = json.loads(Path(command[-1]).read_text())
        asked.append(request["levers"])
        found = answer(request["levers"])
        if isinstance(found, str):
            return found
        Path(request["answer"]).write_text(json.dumps(found.to_dict()))
        return None

    monkeypatch.setattr(module, "run_child", run)
    return asked


def test_a_killed_pretest_trusts_nothing_and_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = _processes(monkeypatch, lambda group: "its pretest did not end within 9 s")
    assert levers_of(TILED) == ("tiled_feedforward",)
    for _ in range(2):  # nothing is known the second time either
        one = pretest_levers(TILED, cpu())["tiled_feedforward"]
        assert not one.trusted and "did not end within 9 s" in one.text
    assert len(asked) == 2
    # An answer that cannot be read is no pass either.
    monkeypatch.setattr(module, "run_child", lambda *given, **named: None)
    one = pretest_levers(TILED, cpu())["tiled_feedforward"]
    assert not one.trusted and "without a result" in one.text
    history = pretest_logs.entries()
    assert [entry["status"] for entry in history] == ["FAIL"] * 3


def test_what_was_found_holds_for_the_same_driver_device_and_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = _processes(monkeypatch, lambda group: findings_of("+".join(group)))
    monkeypatch.setattr(identities, "driver", lambda: "580.65.06")
    plan = TILED.replace(device="cuda")
    first = pretest_levers(plan, cpu())
    assert first["tiled_feedforward"].trusted and len(asked) == 1
    again = pretest_levers(plan.replace(steps=9000), cpu())
    assert again["tiled_feedforward"].trusted and len(asked) == 1
    assert [x["cached"] for x in pretest_logs.entries()] == [False, True]
    monkeypatch.setattr(identities, "driver", lambda: "570.00.00")
    pretest_levers(plan, cpu())
    assert len(asked) == 2
    pretest_levers(plan, cpu(device_name="another"))
    pretest_levers(plan, cpu(torch_version="2.14.0"))
    pretest_levers(plan.replace(micro_batch_size=4), cpu())
    assert len(asked) == 5
    pretest_levers(plan, cpu())
    assert len(asked) == 5
    pretest_levers(plan, cpu(), fresh=True)
    assert len(asked) == 6


def test_a_cache_entry_of_another_machine_under_this_name_counts_for_nothing() -> None:
    here = identity(TILED, "tiled_feedforward", cpu())
    keep(here, findings_of("tiled_feedforward"))
    assert cached(here) is not None
    file = place(here)
    values = json.loads(file.read_text())
    values["identity"]["driver"] = "1.0"
    file.write_text(json.dumps(values))
    assert cached(here) is None
    file.write_text("{")
    assert cached(here) is None


def test_a_bundle_is_judged_too_and_else_the_fastest_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = TILED.replace(compile=True)
    speeds = {"compile": 1.2, "tiled_feedforward": 1.1, "both": 1.25}

    def answer(group: list[str]) -> Findings:
        speed = speeds["both" if len(group) > 1 else group[0]]
        ratios = [speed + 0.001 * n for n in range(8)]
        return findings_of("+".join(group), ratios=ratios)

    _processes(monkeypatch, answer)
    found = pretest_levers(plan, cpu())
    assert list(found) == ["compile", "tiled_feedforward", "compile+tiled_feedforward"]
    assert used(found) == ("compile", "tiled_feedforward")
    speeds["both"] = 1.01
    found = pretest_levers(plan, cpu(), fresh=True)
    assert used(found) == ("compile",)


@pytest.mark.covers("KRN-06")
def test_the_history_can_be_asked_by_size_and_is_summed_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _processes(monkeypatch, lambda group: findings_of("+".join(group)))
    hook = lumina.PretestHook()
    monkeypatch.setattr("lumina.guard.safe_optimizations.probe", lambda device: cpu())
    small, large = TILED.replace(parameters=85_400), TILED.replace(parameters=124 << 20)
    assert hook.why(small, "tiled_feedforward") == "it was not tried here before"
    hook.run(small)
    assert hook.why(small, "tiled_feedforward") == ""
    assert hook.why(large, "tiled_feedforward") == "another model size"
    moved = small.replace(label_smoothing=0.1)
    assert hook.why(moved, "tiled_feedforward") == "the configuration changed"
    assert "new checkpoint" in hook.why(small, "tiled_feedforward", "a file")
    hook.run(large)
    assert [x["model_size"] for x in hook.get_history()] == ["85K", "130M"]
    assert len(hook.get_history("85K")) == 1
    summary = hook.get_summary()
    assert summary["tiled_feedforward 85K dense"]["status"] == "PASS"
    hook.print_summary()
    assert "tiled_feedforward" in capsys.readouterr().out
    folder = Path(os.environ["LUMINA_CACHE"]) / "pretest_logs"
    names = {file.name for file in folder.glob("*.json")}
    assert "pretest_history.json" in names
    assert any(name.startswith("pretest_85K_2") for name in names)
    (folder / "pretest_history.json").write_text("[")
    assert hook.get_history() == []
    assert (folder / "pretest_history.damaged").exists()


@pytest.mark.thorough
@pytest.mark.covers(
    "KRN-06", "KRN-01: status map such as fa3 DISABLED, blackwell_tuning ENABLED"
)
def test_levers_of_a_plan_and_of_a_checkpoint_are_tried_in_processes(
    tmp_path: Path,
) -> None:
    config = lumina.ConfigPresets.debug().replace(
        device="cpu", feedforward_tile=16, seq_length=32, batch_size=4, use_moe=False
    )
    safe = lumina.SafeOptimizations(config)
    assert safe.status()["tiled_feedforward"] == "EXPERIMENTAL"
    assert safe.status()["fp8"] == "N/A"
    assert safe.status()["flash_attention_3"] == "DISABLED"
    assert safe.pretest()["tiled_feedforward"].trusted
    assert safe.status()["tiled_feedforward"] == "ENABLED"
    with pytest.raises(LuminaError, match="no optimisation that this run"):
        safe.pretest("compile")
    subject = ProgramSubject(TILED)
    subject.saved_and_loaded(tmp_path / "run")
    hook = lumina.PretestHook()
    found = hook.run_pretests_for_checkpoint(tmp_path / "run")
    assert found["tiled_feedforward"].trusted
    with pytest.raises(LuminaError, match="not of 7B"):
        hook.run_pretests_for_checkpoint(tmp_path / "run", "7B")


def test_emulated_products_of_8_bits_are_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, w = torch.randn(16, 32), torch.randn(48, 32)
    plain = float8.linear(x, w, "hybrid")
    with widened():
        assert torch.equal(float8.linear(x, w, "hybrid"), plain)
