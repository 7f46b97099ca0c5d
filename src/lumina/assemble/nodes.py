"""Where the machines of a run meet: one store on the first of them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch.distributed as dist

from lumina.config.sections.nodes import NodesSection
from lumina.errors import LuminaError

PATIENCE = 1800.0
"""Seconds that a machine waits for the first one, and that one for the others."""

PARTING = 30.0
"""Seconds that the first machine stays for the others, once its own ranks have ended:
the store in which they meet is its own."""

_ENDED = "lumina/ended/{}"
_ASKED = (129, 130, 143)
"""Exit codes of ranks that were asked to end: all ranks agree on the step."""

_FAMILY = {socket.AF_INET, socket.AF_INET6}


class Nodes:
    """This machine among those that train together.

    Every machine starts its own ranks. They meet in a store on machine 0, as those of
    torchrun do, and each machine leaves word there of how its ranks have ended.

    Args:
        nodes: which machine this is, and where machine 0 is.
        processes: that it starts.
        say: takes lines for a person.

    Raises:
        LuminaError: E002 where it is not said which machine this is, or where the
            machines do not agree; E003 where nothing can listen at the address, or
            nobody answers there; E005 where no machine has it.
    """

    def __init__(
        self, nodes: NodesSection, processes: int, say: Callable[[str], None]
    ) -> None:
        missing = [
            f"--{name.replace('_', '-')}"
            for name in ("node_rank", "master_addr")
            if getattr(nodes, name) is None
        ]
        if missing:
            raise LuminaError(
                "E002",
                f"num_nodes is {nodes.num_nodes}, and {' and '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not given",
                "start the same command on every machine, with --node-rank 0, 1 and so "
                "on, and --master-addr with the address of the first",
            )
        assert nodes.node_rank is not None and nodes.master_addr is not None
        self.rank, self.count = nodes.node_rank, nodes.num_nodes
        self._processes = processes
        self._host, self._port = nodes.master_addr, nodes.master_port
        self._store: Any = None
        if self.rank == 0:
            self._listen()
            say(
                f"machine 0 of {self.count}: the others meet it with --master-addr "
                f"{self._host} --master-port {self._port}"
            )
        else:
            self._knock(say)
        self._agree()

    def environments(self) -> list[dict[str, str]]:
        """What the environment of each rank of this machine needs, as torchrun has it.

        Interfaces of the network are those by which the machines reach each other,
        unless the environment names others.
        """
        world, here = self.count * self._processes, self._processes
        shared = {
            "MASTER_ADDR": self._host,
            "MASTER_PORT": str(self._port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(here),
            "GROUP_RANK": str(self.rank),
        }
        return [
            shared | {"RANK": str(self.rank * here + local), "LOCAL_RANK": str(local)}
            for local in range(here)
        ]

    def interface(self) -> str | None:
        """The network interface by which the other machines reach this one."""
        with contextlib.suppress(OSError):
            family, where = _address(self._host, self._port)
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(where)  # sends nothing
                own = probe.getsockname()[0]
            for name, addresses in psutil.net_if_addrs().items():
                if own in [one.address.partition("%")[0] for one in addresses]:
                    return name
        return None

    def elsewhere(self) -> str | None:
        """Why the run cannot go on because of another machine; None while it can."""
        for node in range(self.count):
            if node == self.rank:
                continue
            try:
                if not self._store.check([_ENDED.format(node)]):
                    continue
                code = int(self._store.get(_ENDED.format(node)))
            except (RuntimeError, ValueError):
                return f"machine 0 ({self._host}:{self._port}) is not there any more"
            if code and code not in _ASKED:
                return f"machine {node} ended with exit code {code}"
        return None

    def leave(self, code: int) -> None:
        """Tell the others how the ranks of this machine have ended.

        Machine 0, which holds the store, then stays until they too have ended, but not
        for long.
        """
        with contextlib.suppress(RuntimeError):
            self._store.set(_ENDED.format(self.rank), str(code))
        if self.rank:
            return
        others = [_ENDED.format(node) for node in range(1, self.count)]
        until = time.monotonic() + PARTING
        with contextlib.suppress(RuntimeError):
            while time.monotonic() < until and not self._store.check(others):
                time.sleep(0.05)

    def _listen(self) -> None:
        """Hold a store at the address, and at no other of this machine."""
        family, where = _address(self._host, self._port)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(1024)
        except OSError as error:
            listener.close()
            raise LuminaError(
                "E003",
                f"nothing can listen at {self._host}:{self._port}: {error.strerror}",
                "--master-addr is an address of the machine with --node-rank 0; "
                "--master-port 0 takes a free port, and names it",
            ) from error
        self._port = listener.getsockname()[1]
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            self._host,
            self._port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )

    def _knock(self, say: Callable[[str], None]) -> None:
        """Wait for the first machine, and use its store.

        In Python, so that a signal ends the wait at once.
        """
        family, where = _address(self._host, self._port)
        until, said = time.monotonic() + PATIENCE, False
        while True:
            try:
                with socket.socket(family, socket.SOCK_STREAM) as knock:
                    knock.settimeout(5.0)
                    knock.connect(where)
                break
            except OSError as error:
                if time.monotonic() > until:
                    raise LuminaError(
                        "E003",
                        f"machine 0 does not answer at {self._host}:{self._port}: "
                        f"{error.strerror or error}",
                        "start the command on the machine with --node-rank 0, and let "
                        "its port through",
                    ) from error
            if not said:
                say(
                    f"machine {self.rank} of {self.count} waits for machine 0 at "
                    f"{self._host}:{self._port}"
                )
                said = True
            time.sleep(0.2)
        self._store = dist.TCPStore(  # type: ignore[attr-defined]
            self._host, self._port, is_master=False
        )

    def _agree(self) -> None:
        """Refuse machines that were told different numbers, or the same place twice."""
        mine = f"{self.count} machines with {self._processes} processes each"
        if self.rank == 0:
            self._store.set("lumina/nodes", mine)
        theirs = self._store.get("lumina/nodes").decode()
        again = self._store.add(f"lumina/node/{self.rank}", 1) > 1
        if theirs == mine and not again:
            return
        if not again:
            self.leave(2)
        raise LuminaError(
            "E002",
            f"another process is machine {self.rank} already"
            if again
            else f"this machine was told of {mine}, and machine 0 of {theirs}",
            "give every machine its own --node-rank, and --num-nodes and --nproc of "
            "the same values",
        )


def _address(host: str, port: int) -> tuple[int, Any]:
    """The family of an address, and the address as a socket takes it.

    Raises:
        LuminaError: E005 for a name that is no machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise LuminaError(
            "E005",
            f"master_addr {host!r} is no machine's name or address: {why}",
            "give the address of the machine with --node-rank 0",
        ) from error
    family, *_, where = next(one for one in found if one[0] in _FAMILY)
    return int(family), where
