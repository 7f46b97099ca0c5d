"""The place of this process among those that train together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lumina.errors import LuminaError
from lumina.parallel.mesh import Mesh
from lumina.parallel.sizes import Sizes

START_TIMEOUT = timedelta(minutes=30)
"""Ranks wait this long for each other: the first one may be tokenising the data."""

_LEFT: list[dist.ProcessGroup | None] = []
"""The process group that was left last, held until the next one is joined.

DDP drops its reference to a group while it holds the interpreter's lock. If that were
the last reference, the end of the group would wait for a thread that may itself be
waiting for the lock, in order to free a tensor: for ever."""

_MESHES: dict[tuple[Ranks, Sizes], Mesh] = {}
"""Meshes of the present process group, shared by programs that follow one another.

They too are held until the next group is joined, because DDP uses their groups."""

_joined = 0

_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets beside WORLD_SIZE when it starts more than one process."""


@dataclass(frozen=True)
class Ranks:
    """This process's place.

    Attributes:
        rank: from 0; rank 0 writes what is written once.
        world_size: processes in all.
        local_rank: from 0 on this machine; the GPU it uses.
        local_size: processes on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @staticmethod
    def from_environment() -> Ranks:
        """The place that torchrun or `--nproc` set; without them, a single process.

        Raises:
            LuminaError: E002 for variables that no launcher sets so, such as a
                WORLD_SIZE that is left from another program. The run would wait for
                ranks that do not exist.
        """
        world = _number("WORLD_SIZE", 1)
        rank = _number("RANK", 0)
        if world > 1:
            missing = [name for name in _LAUNCHED if not os.environ.get(name)]
            if missing:
                raise _no_launch(
                    f"WORLD_SIZE is {world} in the environment, and "
                    f"{', '.join(missing)} {_are(missing)} not set"
                )
        if not 0 <= rank < max(world, 1):
            raise _no_launch(
                f"RANK is {rank} in the environment, of {world} "
                f"process{'es' if world > 1 else ''} in all (WORLD_SIZE)"
            )
        return Ranks(
            rank=rank,
            world_size=max(world, 1),
            local_rank=_number("LOCAL_RANK", 0),
            local_size=_number("LOCAL_WORLD_SIZE", max(world, 1)),
        )

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This process's device of that kind."""
        if kind == "cuda":
            return torch.device("cuda", self.local_rank)
        return torch.device(kind)

    def connect(self, kind: str) -> None:
        """Join the process group: NCCL between GPUs, gloo otherwise."""
        global _joined
        if self.world_size == 1 or dist.is_initialized():
            return
        _joined += 1
        _LEFT.clear()
        _MESHES.clear()
        if kind == "cuda":
            torch.cuda.set_device(self.local_rank)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl",
                timeout=START_TIMEOUT,
                device_id=self.device(kind),
                **_store(),
            )
        else:
            dist.init_process_group("gloo", timeout=START_TIMEOUT, **_store())

    def disconnect(self) -> None:
        """Leave the process group."""
        if dist.is_available() and dist.is_initialized():
            _LEFT.append(dist.group.WORLD)
            dist.destroy_process_group()

    def mesh(self, sizes: Sizes) -> Mesh:
        """The ranks by dimension; every process must ask for the same at one time."""
        assert sizes.total == self.world_size, f"{sizes} of {self.world_size} processes"
        if (self, sizes) not in _MESHES:
            _MESHES[self, sizes] = Mesh(sizes, self.rank)
        return _MESHES[self, sizes]

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world_size > 1:
            # On a CPU tensor, so that it also orders ranks whose GPUs are idle.
            dist.all_reduce(torch.zeros(1))

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add a tensor of the CPU over all processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank (a small picklable object)."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]


def times_joined() -> int:
    """How many process groups this process has joined; as many on every rank."""
    return _joined


def _store() -> dict[str, Any]:
    """Where ranks meet that torchrun has restarted; nothing for others.

    The agent keeps its store from one attempt to the next, and with it the addresses of
    processes that have ended, which gloo would wait for.
    """
    restarts = _number("TORCHELASTIC_RESTART_COUNT", 0)
    if not restarts:
        return {}
    handler = dist.rendezvous("env://", timeout=START_TIMEOUT)  # type: ignore[attr-defined]
    store, rank, size = next(handler)
    own = dist.PrefixStore(f"restart-{restarts}", store)  # type: ignore[attr-defined]
    return {"store": own, "rank": rank, "world_size": size}


def _number(name: str, default: int) -> int:
    """A whole number of the environment; an empty variable is like none."""
    text = os.environ.get(name, "").strip()
    try:
        return int(text) if text else default
    except ValueError:
        raise _no_launch(
            f"{name} is {text!r} in the environment, which is no whole number"
        ) from None


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _no_launch(message: str) -> LuminaError:
    return LuminaError(
        "E002",
        f"{message}: no launcher of several processes sets them so",
        "unset WORLD_SIZE and RANK to train in one process; start several with "
        "--nproc N or torchrun",
    )


def meeting_place() -> tuple[object, dict[str, str]]:
    """Where the ranks of a run on this machine meet: a store on a port of its own.

    The port is the system's choice and is taken from here on, so several jobs on one
    machine never get in each other's way.

    Returns:
        The store, to be held while the ranks run, and what their environment needs to
        find it.
    """
    store = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", 0, is_master=True, wait_for_workers=False
    )
    return store, {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        # As torchrun says it: rank 0 is not to open a store itself.
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
