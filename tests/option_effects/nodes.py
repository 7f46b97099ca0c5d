"""Options of a run on several machines; such runs are in tests/train/test_nodes.py."""

from __future__ import annotations

from lumina.assemble.nodes import Nodes
from option_effects import shows
from tiny_runs import Runs


@shows("num_nodes", "node_rank", "master_addr", "master_port")
def machines(runs: Runs) -> None:
    """They say which ranks this machine starts, and where these meet the others."""
    here = {"num_nodes": 3, "node_rank": 0, "master_addr": "127.0.0.1"}
    first = Nodes(runs.config(**here, master_port=0).nodes, 2, lambda text: None)
    (place, _) = first.environments()
    assert (place["WORLD_SIZE"], place["MASTER_ADDR"]) == ("6", "127.0.0.1")
    port = int(place["MASTER_PORT"])
    config = runs.config(**here | {"node_rank": 2, "master_port": port})
    last = Nodes(config.nodes, 2, lambda text: None)
    assert [one["RANK"] for one in last.environments()] == ["4", "5"]
    assert last.environments()[0]["MASTER_PORT"] == str(port)
    assert "of which 1 is on this machine" in runs.refused("E002", num_nodes=2)
    assert "there is one machine" in runs.refused("E002", node_rank=1)
    assert "node_rank is 2" in runs.refused("E002", num_nodes=2, node_rank=2)
    free = {"num_nodes": 2, "node_rank": 1, "master_port": 0}
    assert "master_port is 0" in runs.refused("E002", **free)
    assert "num_nodes is 2" in runs.refused("E002", num_nodes=2, supervise=True)
    searched = {"num_nodes": 2, "auto_batch_size": True}
    assert "one process" in runs.refused("E002", **searched)
