"""Starting points: each cell of the tables, and the fits beside published runs."""

from __future__ import annotations

import json
import math

import pytest

from lumina.cli.main import main
from lumina.plan import guidance


@pytest.mark.covers("PRE-14")
@pytest.mark.parametrize(
    ("size", "base", "finetune"),
    [
        (9e8, 3e-4, 1e-4),
        (1e9, 2e-4, 5e-5),
        (9.9e9, 2e-4, 5e-5),
        (1e10, 1e-4, 1e-5),
        (1e11, 6e-5, 5e-6),
    ],
)
def test_rates_by_size(size: float, base: float, finetune: float) -> None:
    assert guidance.rate_for(size, "base") == base
    assert guidance.rate_for(size, "finetune") == finetune


@pytest.mark.covers("PRE-15")
@pytest.mark.parametrize(
    ("gib", "preset", "base", "finetune"),
    [
        (24, "b1", 16, 8),
        (24, "b7", 4, 2),
        (40, "b1", 64, 32),
        (40, "b7", 16, 8),
        (40, "b14", 8, 4),
        (80, "b7", 32, 16),
        (80, "b14", 16, 8),
        (80, "b30", 8, 4),
        (79.2, "b30", 8, 4),  # what such a card reports
        (24, "b30", None, None),
    ],
)
def test_batches_by_hardware(
    gib: float, preset: str, base: int | None, finetune: int | None
) -> None:
    assert guidance.batch_for(gib, preset, "base") == base
    assert guidance.batch_for(gib, preset, "finetune") == finetune


@pytest.mark.covers("DST-07")
def test_stages_of_zero_by_size(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = (1e9, 6.9e9, 7e9, 2.9e10, 3e10, 9e10, 1e11)
    stages = [guidance.stage_for(size) for size in sizes]
    assert [stage for stage, _ in stages] == [1, 1, 2, 2, 3, 3, 3]
    assert [offload for _, offload in stages] == [False] * 6 + [True]
    for preset, stage in (("b1", 1), ("b7", 2), ("b50", 3)):
        assert main(["suggest", "--preset", preset]) == 0
        text = capsys.readouterr().out
        assert f"--zero-stage {stage}" in text and "--zero-stage auto goes by" in text
        assert ("--optimizer-states-in host" in text) is (preset == "b50")


@pytest.mark.covers("PRE-16", "PRE-17")
def test_lengths_and_conversations() -> None:
    found = guidance.tables()
    assert {row["use"]: row["tokens"] for row in found["lengths"]} == {
        "chat": 2048,
        "long chat": 4096,
        "code": 4096,
        "document questions": 8192,
        "books": 16384,
    }
    counts = [row["count"] for row in found["conversations"]]
    assert counts == [100, 1000, 10_000, 50_000, 100_000]


@pytest.mark.covers("PRE-18")
def test_epochs() -> None:
    assert [guidance.epochs_for(tokens) for tokens in (9e8, 1e9, 9e9, 2e10)] == [
        3,
        2,
        2,
        1,
    ]
    passes = {row["purpose"]: row["epochs"] for row in guidance.tables()["epochs"]}
    assert [1, 3, 5] in passes.values() and [1, 3] in passes.values()


@pytest.mark.covers("TRN-17")
def test_the_fits_give_what_their_authors_used() -> None:
    # DeepSeek LLM 7B, table 2: 30 layers of 4,096, rows of 4,096, 2T tokens; they used
    # a rate of 4.2e-4 and 2,304 rows a step.
    operations = 72 * 30 * 4096**2 + 12 * 30 * 4096 * 4096
    *_, law = guidance.answers(6.9e9, 6.5e9, operations, 2e12)
    assert law.rate == pytest.approx(4.2e-4, rel=0.02)
    assert law.batch_tokens == pytest.approx(2304 * 4096, rel=0.03)
    assert not law.within  # it is far larger than the runs of the fit
    # Chinchilla: 70B parameters and 1.4T tokens.
    kaplan, hoffmann, _ = guidance.answers(7e10, 6.9e10, 4e11, 1.4e12)
    assert hoffmann.tokens == pytest.approx(1.4e12) and not hoffmann.within
    assert kaplan.rate is None and not kaplan.within  # it breaks down above 1e10
    small, *_ = guidance.answers(1.2e8, 1e8, 6e8, 2e9)
    assert small.within and "2001.08361" in small.source
    assert small.rate == pytest.approx(0.003239 - 0.0001395 * math.log(1e8))
    assert small.batch_tokens == pytest.approx(
        2e8 / guidance.kaplan_loss(1e8, 2e9) ** (1 / 0.21)
    )
    # Their loss without a limit of data, equation 1.1, is a little lower.
    endless = (8.8e13 / 1e8) ** 0.076
    assert endless < guidance.kaplan_loss(1e8, 2e9) < 1.03 * endless


@pytest.mark.covers(
    "MOD-08: suggested: <8K full, 8-32K 2048, >32K 512, 50-100K 256-512"
)
@pytest.mark.parametrize(
    ("length", "window", "said"),
    [
        (4096, [0, 0], "--window-size 0 (full attention)"),
        (8191, [0, 0], "--window-size 0 (full attention)"),
        (8192, [2048, 2048], "--window-size 2048 for rows of 8,192"),
        (32768, [2048, 2048], "--window-size 2048"),
        (32769, [512, 512], "--window-size 512"),
        (65536, [256, 512], "--window-size 256 to 512"),
        (131072, [512, 512], "--window-size 512"),
    ],
)
def test_a_window_is_suggested_by_the_length(
    length: int, window: list[int], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["suggest", "--preset", "debug", "--seq-length", str(length)]
    asked += ["--device", "cpu"]
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["table"]["window_size"] == window
    assert main(asked) == 0
    assert said in capsys.readouterr().out
