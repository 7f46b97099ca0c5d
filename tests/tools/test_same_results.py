"""The comparison of two versions notices what differs, and knows what was meant to."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

PATH = Path(__file__).parents[2] / "tools" / "same_results.py"
BEFORE: dict[str, Any] = {
    "dense, 1 process": {
        "rows": [{"step": 1, "loss": 2.5, "act.steps": 3}, {"step": 2, "loss": 2.25}],
        "tensors": {"a.safetensors/w": "F32 [2] 01"},
    }
}


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("same_results", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["same_results"] = module
    spec.loader.exec_module(module)
    return module


def test_a_value_a_row_a_tensor_and_a_case_are_told(tool: Any) -> None:
    assert tool.differences(BEFORE, copy.deepcopy(BEFORE), {}) == []
    after = copy.deepcopy(BEFORE)
    case = after["dense, 1 process"]
    case["rows"][1]["loss"] = 2.250001
    case["tensors"]["a.safetensors/w"] = "F32 [2] 02"
    case["tensors"]["a.safetensors/new"] = "F32 [1] 03"
    after["window, 1 process"] = case
    lines = "\n".join(tool.differences(BEFORE, after, {}))
    assert "dense, 1 process, step 2: loss was 2.25, is 2.250001" in lines
    assert "w was" in lines and 'new was "absent"' in lines
    assert "window, 1 process: only after" in lines
    case["rows"].pop()
    assert "2 rows, now 1" in "\n".join(tool.differences(BEFORE, after, {}))


def test_what_was_changed_on_purpose_is_not_told(tool: Any) -> None:
    after = copy.deepcopy(BEFORE)
    row = after["dense, 1 process"]["rows"][0]
    row["halting.segments"] = row.pop("act.steps")
    row["loss_tokens"] = 4
    assert len(tool.differences(BEFORE, after, {})) == 3
    known = {
        "rows": {
            "act.steps": {"new": "halting.segments", "why": "renamed"},
            "loss_tokens": {"new": "loss_tokens", "added": True, "why": "added"},
        }
    }
    assert tool.differences(BEFORE, after, known) == []
    row["halting.segments"] = 4
    assert len(tool.differences(BEFORE, after, known)) == 1


def test_a_case_that_fails_now_is_told(tool: Any) -> None:
    after = {"dense, 1 process": {"error": "E002: no"}}
    assert tool.differences(BEFORE, after, {}) == ["dense, 1 process: E002: no"]
    assert tool.differences(after, after, {}) == []


def test_times_are_left_out_and_digests_are_of_bytes(tool: Any, tmp_path: Path) -> None:
    row = {"step": 1, "time": 3.5, "step_seconds": 1.0, "memory_peak_bytes": 5}
    assert tool.without_times(row) == {"step": 1}
    folder = tmp_path / "step-2"
    folder.mkdir()
    (tmp_path / "LATEST").write_text("step-2")
    found = []
    for value in (1.0, 1.0, 1.0000001):
        save_file({"w": torch.tensor([value])}, folder / "model.safetensors")
        found.append(dict(tool.digests(tmp_path))["model.safetensors/w"])
    assert found[0] == found[1] != found[2]
    assert found[0].startswith("F32 [1] ")


def test_every_case_names_options_that_there_are(tool: Any) -> None:
    from lumina import Config

    for name, leaves in tool.CASES.items():
        settings = tool.COMMON | leaves
        config = Config.resolve(flags=settings)
        assert config.get("steps") == tool.STEPS, name
