"""`lumina features` and `lumina doctor`: what can be switched, what is here."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.features.registry import FEATURES


def test_features_lists_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["features"]) == 0
    printed = capsys.readouterr().out
    for name, feature in FEATURES.items():
        assert f"{name}: {feature.summary}" in printed
        assert "--" + feature.option.replace("_", "-") in printed
    name = next(iter(FEATURES))
    assert main(["features", name.replace("_", "-")]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: ")
    assert main(["features", name + "x"]) == 2
    assert repr(name) in capsys.readouterr().err


def test_doctor_names_device_memory_and_versions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"torch {torch.__version__}" in printed
    for heading in ("device", "memory", "processor", "bfloat16", "compiler", "disk"):
        assert any(line.startswith(heading) for line in printed.splitlines())
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["environment"]
    assert facts["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert facts["cores"] >= 1
