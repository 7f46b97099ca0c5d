"""Four ranks in two dimensions: who adds up with whom, and a step that does."""

from __future__ import annotations

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.parallel.mesh import Mesh
from meshes import STEPS, of_four
from programs import conversations, stream_of, take_steps, tiny_plan
from training import in_processes


def test_one_process_is_a_mesh() -> None:
    mesh = Mesh()
    for ranks in (mesh.data, mesh.expert, mesh.tokens, mesh.copies, mesh.everyone):
        assert (ranks.size, ranks.rank, ranks.group) == (1, 0, None)
        assert ranks.any_(True) and not ranks.any_(False)
        assert ranks.sum_(torch.ones(2)).tolist() == [1, 1]
        assert ranks.stack(torch.ones(2)).shape == (1, 2)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def four(store):
    """What each of four ranks found."""
    return dict(in_processes(of_four, 4, store.folder, answers=4))


@pytest.mark.thorough
def test_each_group_adds_up_its_own(four) -> None:
    """Ranks 0 and 1 are tensor ranks of one another, 0 and 2 are data ranks."""
    for rank, found in four.items():
        across = 10.0**rank + 10.0 ** ((rank + 2) % 4)
        beside = 10.0**rank + 10.0 ** (rank ^ 1)
        assert found["data"] == found["tokens"] == across
        assert found["tensor"] == found["copies"] == beside
        assert found["sequence"] == found["expert"] == 10.0**rank
        assert found["everyone"] == 1111
        assert found["any"] == [r % 2 == rank % 2 for r in range(4)]
        assert found["stack"] == [10.0 ** (rank % 2), 10.0 ** (rank % 2 + 2)]


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "zero2", "fsdp2"])
def test_a_step_is_that_of_one_rank(store, four, parallel: str) -> None:
    """Rows are divided over data; tensor ranks do the same work twice."""
    wanted, _ = take_steps(assemble(tiny_plan()), stream_of(store), STEPS)
    for found in four.values():
        torch.testing.assert_close(
            torch.tensor(found[parallel]), wanted, rtol=1e-5, atol=1e-5
        )
