"""Gradients of groups of tensors on two ranks: figures and decisions of one process."""

from __future__ import annotations

from pathlib import Path

import pytest

from training import DENSE, column, events, rows, words

pytestmark = pytest.mark.thorough

CHECK = """
from lumina.train.health.check import Alarm, Check, register_check


@register_check
class GroupNormOutlier(Check):
    name, penalty, rule = "group_norm_outlier", 10, "in every step"

    def see(self, row):
        groups = {key: x for key, x in row.items() if key.startswith("group.")}
        if row["step"] < 4:
            return None
        return Alarm("a test", {"largest": max(groups, key=groups.get)}, "error", 0.9)
"""
"""The check of the same name, which a plug-in takes the place of, with every figure."""

FLAGS = [
    *DENSE,
    *words(
        "--steps 16 --precision fp32 --metrics full --max-grad-norm 0.5 --adaptive on "
        "--adaptive-cooldown-steps 2 --adaptive-levels 1 2 --experience off "
        "--lr-scheduler constant"
    ),
]


def groups(folder: Path) -> dict[str, list[float]]:
    """The norm of every group in every step."""
    names = [key for key in rows(folder)[0] if key.startswith("group.")]
    return {name: column(folder, name) for name in names}


def decided(folder: Path) -> list[tuple[int, str, object, object]]:
    return [
        (e["step"], e["data"]["action"], e["data"]["new"], e["data"]["evidence"])
        for e in events(folder, "decision")
    ]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "made.py"
    path.write_text(CHECK)
    return str(path)


@pytest.fixture(scope="module")
def alone(trainings, plugin) -> Path:
    return trainings.train("groups-alone", *FLAGS, "--plugins", plugin)


@pytest.mark.covers("DST-16: Orchestrator decisions synchronised over ranks")
@pytest.mark.parametrize("way", ["ddp", "fsdp2"])
def test_two_ranks_have_the_groups_and_decisions_of_one(
    trainings, alone, plugin, way
) -> None:
    flags = [*FLAGS, "--plugins", plugin, "--batch-size", "2", "--parallel", way]
    folder = trainings.train_on_ranks(f"groups-{way}", *flags)
    wanted, found = groups(alone), groups(folder)
    assert len(wanted) >= 3 and found.keys() == wanted.keys()
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], rel=2e-3), name
    assert decided(folder) == decided(alone)
    assert {"tighter_clip", "lower_rate"} <= {one[1] for one in decided(alone)}
