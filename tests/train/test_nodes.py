"""Two machines that train together: two launchers on one machine, over loopback."""

from __future__ import annotations

import functools
import os
import re
import socket
import threading
from pathlib import Path

import pytest

from lumina.assemble import nodes as rooms
from lumina.assemble.nodes import Nodes
from lumina.assemble.ranks import meeting_place
from lumina.config.sections.nodes import NodesSection
from lumina.errors import LuminaError
from training import (
    DENSE,
    Running,
    Trainings,
    assert_ranks_end,
    column,
    start,
    wait_until,
    words,
)

FLAGS = [*DENSE, *words("--precision fp32 --batch-size 2 --steps 4")]
MET = re.compile(r"--master-addr (\S+) --master-port (\d+)")


def machine(rank: int, port: int, count: int = 2, address: str = "127.0.0.1"):
    return NodesSection(
        num_nodes=count, node_rank=rank, master_addr=address, master_port=port
    )


@pytest.fixture
def first() -> tuple[Nodes, int]:
    """Machine 0 of two with two processes each, and the port that it took."""
    said: list[str] = []
    node = Nodes(machine(0, 0), 2, said.append)
    (found,) = MET.findall("".join(said))
    assert found[0] == "127.0.0.1"
    return node, int(found[1])


@pytest.mark.covers("DST-13: --node_rank", "DST-13: --master_addr, --master_port 29500")
def test_every_rank_of_every_machine_has_a_place_of_its_own(
    first: tuple[Nodes, int],
) -> None:
    node, port = first
    other = Nodes(machine(1, port), 2, lambda text: None)
    places = [*node.environments(), *other.environments()]
    assert [one["RANK"] for one in places] == ["0", "1", "2", "3"]
    assert [one["LOCAL_RANK"] for one in places] == ["0", "1", "0", "1"]
    assert {one["WORLD_SIZE"] for one in places} == {"4"}
    assert {one["LOCAL_WORLD_SIZE"] for one in places} == {"2"}
    assert {one["MASTER_PORT"] for one in places} == {str(port)}
    assert node.interface() == other.interface() and node.interface()
    assert NodesSection().master_port == 29500


def test_machines_that_were_told_different_things_are_refused(
    first: tuple[Nodes, int],
) -> None:
    node, port = first
    with pytest.raises(
        LuminaError, match=r"2 machines with 3 processes each.*2 processes each"
    ):
        Nodes(machine(1, port), 3, lambda text: None)
    assert node.elsewhere() == "machine 1 ended with exit code 2"
    with pytest.raises(LuminaError, match=r"E002.*is machine 1 already"):
        Nodes(machine(1, port), 2, lambda text: None)


def test_a_machine_hears_how_the_others_have_ended(first: tuple[Nodes, int]) -> None:
    node, port = first
    other = Nodes(machine(1, port), 2, lambda text: None)
    assert node.elsewhere() is None and other.elsewhere() is None
    for code in (0, 143):
        other.leave(code)  # done, or asked to end: all ranks agree on that
        assert node.elsewhere() is None
    other.leave(1)
    assert node.elsewhere() == "machine 1 ended with exit code 1"
    node.leave(3)
    assert other.elsewhere() == "machine 0 ended with exit code 3"


def test_the_first_machine_stays_until_the_others_have_ended(
    first: tuple[Nodes, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, port = first
    other = Nodes(machine(1, port), 2, lambda text: None)
    leaving = threading.Thread(target=node.leave, args=(0,))
    leaving.start()
    assert wait_until(lambda: other._store.check([rooms._ENDED.format(0)]))
    assert leaving.is_alive()
    other.leave(0)
    leaving.join()
    monkeypatch.setattr(rooms, "PARTING", 0.0)
    alone = Nodes(machine(0, 0), 1, lambda text: None)
    alone.leave(0)  # the others never came


def test_an_address_that_is_of_no_use_is_refused(
    first: tuple[Nodes, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = first
    # 192.0.2.0/24 is for examples in documents: no machine has it.
    with pytest.raises(LuminaError, match=r"E003.*192\.0\.2\.1"):
        Nodes(machine(0, 0, address="192.0.2.1"), 1, lambda text: None)
    with pytest.raises(LuminaError, match=r"(?s)E003.*--master-port 0"):
        Nodes(machine(0, port), 2, lambda text: None)
    with pytest.raises(LuminaError, match=r"E005.*no machine's name"):
        Nodes(machine(0, 0, address="no..such"), 1, lambda text: None)
    with pytest.raises(LuminaError, match=r"E002.*--node-rank and --master-addr are"):
        Nodes(NodesSection(num_nodes=2), 1, lambda text: None)
    monkeypatch.setattr(rooms, "PATIENCE", 0.0)
    said: list[str] = []
    node = Nodes(machine(0, 0), 1, said.append)
    gone = int(MET.findall(said[0])[0][1])
    other = Nodes(machine(1, gone), 1, lambda text: None)
    del node  # and with it the store
    assert str(other.elsewhere()).endswith("is not there any more")
    with (
        socket.socket() as deaf,  # its port is taken, and nobody listens there
        pytest.raises(LuminaError, match=r"E003.*does not answer"),
    ):
        deaf.bind(("127.0.0.1", 0))
        Nodes(machine(1, deaf.getsockname()[1]), 1, lambda text: None)


def two_machines(trainings: Trainings, name: str, *flags: str) -> list[Running]:
    """The same command twice, with one process each."""
    command = trainings.command(name, *FLAGS, *flags)
    place = words("--num_nodes 2 --num_gpus 1 --master_addr 127.0.0.1 --master_port")

    def begin(rank: int, port: str) -> Running:
        log = trainings.folder / f"{name}.{rank}.log"
        return start([*command, *place, port, "--node_rank", str(rank)], log)

    one = begin(0, "0")
    assert wait_until(lambda: MET.search(one.output) is not None, one), one.output
    return [one, begin(1, MET.findall(one.output)[0][1])]


@pytest.mark.thorough
@pytest.mark.covers("DST-13: --num_nodes", "DST-13: --num_gpus")
def test_two_machines_train_what_one_process_trains(trainings: Trainings) -> None:
    running = two_machines(trainings, "nodes")
    assert_ranks_end(running)
    alone = trainings.train("one-machine", *FLAGS)
    for name in ("loss", "grad_norm"):
        assert column(trainings.folder / "nodes", name) == pytest.approx(
            column(alone, name), rel=1e-5
        )
    # One voice, that of the first rank of the first machine.
    assert "ended      done" in running[0].output
    assert "ended" not in running[1].output


@pytest.mark.thorough
def test_machines_without_a_common_folder_are_refused(
    trainings: Trainings, tmp_path: Path
) -> None:
    """The second process has another folder under the name of the run's."""
    store, place = meeting_place()
    running = []
    command = trainings.command("x", *FLAGS)
    command[command.index("--run-dir") + 1] = "runs/mine"
    for rank in range(2):
        here = tmp_path / f"machine-{rank}"
        here.mkdir()
        running.append(
            start(
                command,
                tmp_path / f"{rank}.log",
                before=functools.partial(os.chdir, here),
                RANK=str(rank),
                LOCAL_RANK="0",
                WORLD_SIZE="2",
                LOCAL_WORLD_SIZE="1",
                **place,
            )
        )
    codes = [one.wait() for one in running]
    del store
    said = running[0].output
    assert all(codes) and "E104" in said and "rank 1 on another machine" in said
    assert not list((tmp_path / "machine-0").rglob(".lumina-*")), "a file is left"
