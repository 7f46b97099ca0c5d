"""Which process of how many the environment says this is."""

from __future__ import annotations

import pytest

from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.train import Trainer

NAMES = [
    "WORLD_SIZE",
    "RANK",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
]
WHOLE = dict(zip(NAMES, ("2", "1", "1", "2", "127.0.0.1", "29500"), strict=True))


@pytest.fixture
def surroundings(monkeypatch):
    """Sets the launchers' variables; those that are not named are absent."""

    def change(**variables: str) -> None:
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


def test_nothing_or_a_whole_launch_is_taken(surroundings):
    surroundings()
    assert Ranks.from_environment() == Ranks()
    surroundings(**WHOLE)
    assert Ranks.from_environment() == Ranks(1, 2, 1, 2)
    surroundings(WORLD_SIZE="", RANK="0", LOCAL_RANK="0")
    assert Ranks.from_environment() == Ranks()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set"),
        (WHOLE | {"LOCAL_RANK": ""}, "LOCAL_RANK is not set"),
        ({"RANK": "1"}, "RANK is 1 in the environment, of 1 process"),
        (WHOLE | {"RANK": "2"}, "RANK is 2 in the environment, of 2 processes"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
    ],
    ids=["alone", "no place", "no others", "beyond", "word"],
)
def test_what_no_launcher_sets_is_refused_by_name(surroundings, variables, named):
    """Left variables, which made a run wait for ranks that nobody started."""
    surroundings(**variables)
    with pytest.raises(LuminaError) as caught:
        Trainer(Config(train_data=("not read",)))
    assert caught.value.code == "E002"
    assert named in caught.value.message
    assert "unset WORLD_SIZE" in caught.value.hint


@pytest.mark.parametrize(("variables", "asked"), [({"WORLD_SIZE": "1"}, 2), (WHOLE, 4)])
def test_nproc_and_the_environment_do_not_contradict(surroundings, variables, asked):
    surroundings(**variables)
    trainer = Trainer(Config(train_data=("not read",), nproc=asked))
    with pytest.raises(LuminaError) as caught:
        trainer.train()
    assert caught.value.code == "E002"
    assert f"--nproc is {asked}" in caught.value.message
