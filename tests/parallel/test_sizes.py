"""How processes divide into the dimensions of a mesh, and the table of ways."""

from __future__ import annotations

import pytest

from lumina.errors import LuminaError
from lumina.parallel.sizes import Sizes
from lumina.parallel.table import (
    alone,
    chosen_way,
    known_ways,
    preferred_ways,
    register_parallel,
    tried_ways,
)
from lumina.parallel.way import Way


def test_data_gets_what_the_others_leave() -> None:
    assert Sizes.of(1) == Sizes()
    assert Sizes.of(8) == Sizes(data=8)
    assert Sizes.of(24, sequence=2, tensor=3) == Sizes(4, 2, 1, 3)
    assert Sizes.of(24, sequence=2, tensor=3).total == 24


@pytest.mark.parametrize("world_size", [1, 3, 5])
def test_processes_that_cannot_be_divided_are_refused(world_size: int) -> None:
    with pytest.raises(LuminaError, match="groups of 2") as caught:
        Sizes.of(world_size, expert=2)
    assert caught.value.code == "E002"
    assert "multiple of 2" in caught.value.hint


def test_the_table_has_the_files() -> None:
    assert set(known_ways()) >= {"none", "ddp", "zero1", "zero2", "fsdp2"}
    assert alone().name == "none"
    assert [way.name for way in preferred_ways()][:3] == ["ddp", "zero2", "fsdp2"]
    assert [way.name for way in preferred_ways() if way.sharded] == ["zero2", "fsdp2"]
    stages = tried_ways("zero")
    assert [way.stage for way in stages] == [1, 2, 3]
    assert [way.name for way in stages] == ["zero1", "zero2", "fsdp2"]
    assert all(way.divides_states for way in stages)


@pytest.mark.parametrize("name", ["ddp", "auto", "zero", "two words"])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    before = known_ways()
    with pytest.raises(LuminaError) as caught:

        @register_parallel(name)
        class Other(Way):
            pass

    assert caught.value.code == "E005" and name in caught.value.message
    assert known_ways() == before


def test_a_class_of_another_kind_is_refused() -> None:
    with pytest.raises(LuminaError, match=r"parallel\.way\.Way") as caught:
        register_parallel("other")(int)
    assert caught.value.code == "E005"


def test_a_wrong_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(LuminaError) as caught:
        chosen_way("fsdp")
    assert caught.value.code == "E005"
    assert "did you mean 'fsdp2'?" in caught.value.hint
    assert (
        "auto, " in caught.value.hint
        and "ddp, fsdp2, independent, none, zero1, zero2" in caught.value.hint
    )
