"""`lumina features` and `lumina doctor`: what can be switched, what is here."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main
from lumina.features.registry import FEATURES
from lumina.plan import doctor


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


def test_doctor_prints_the_report_on_this_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    assert main(["doctor"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert ["torch", torch.__version__] in [line[:2] for line in lines]
    for heading in ("software", "hardware", "precision", "kernels", "packages"):
        assert [heading] in lines
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    environment = facts["environment"]
    assert environment["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    found = {(row["section"], row["name"]): row["value"] for row in facts["report"]}
    assert found["hardware", "cores"] == str(environment["cores"])


def test_doctor_fails_when_something_needed_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", ("torch", "no-such-package"))
    assert main(["doctor"]) == 1
    line = next(x for x in capsys.readouterr().out.splitlines() if "no-such" in x)
    assert line.split()[-1] == "MISSING"


@pytest.mark.covers("DIA-15")
def test_doctor_shows_what_devices_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    profile = ["--capabilities", "--hardware-profile", "v100"]
    assert main(["doctor", *profile]) == 0
    lines = capsys.readouterr().out.splitlines()
    marked = [line.split("  ")[1].strip() for line in lines if line.startswith("*  ")]
    assert "Volta" in " ".join(lines) and "mixed_fp16" in marked
    assert "mixed_bf16" not in marked
    assert main(["doctor", *profile, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["capabilities"]
    assert (facts["kind"], facts["automatic"]) == ("Volta", "mixed_fp16")
    assert main(["doctor", "--hardware-profile", "v100"]) == 2
    assert "--capabilities" in capsys.readouterr().err
