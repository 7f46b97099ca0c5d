"""A rank of two whose training is profiled, in a process of its own."""

from __future__ import annotations

import sys

import torch

from lumina.config import Config
from lumina.observe.console import Console
from lumina.parallel.sizes import Sizes
from lumina.train.profiling.communication import Watched, profile_communication
from lumina.train.profiling.session import Session
from programs import joined

WAYS = ("ddp", "zero2", "fsdp2")
STEPS = 2


def of_two(rank, place, values, results):
    """In a process of two: each way's profile, and an exchange between experts."""
    ranks = joined(rank, 2, place)
    found = {}
    for way in WAYS:
        config = Config(**values, parallel=way)
        console = Console(stream=sys.stderr, live=False)
        session = Session(config, 2 * STEPS, console, several=True)
        profile = profile_communication(
            session, warm_up=0, steps=STEPS, tell=lambda text: None
        )
        parameters = sum(p.numel() for p in session.program.network.parameters())
        found[way] = (profile.to_dict(), parameters)
        session.close()
    for name, sizes in (("data", Sizes(data=2)), ("expert", Sizes(expert=2))):
        mesh = ranks.mesh(sizes)
        with Watched(mesh) as watch:
            getattr(mesh, name).exchange(torch.ones(2, 100))
            getattr(mesh, name).sum_(torch.ones(3))
        found[name] = [(call.kind, call.bytes, call.experts) for call in watch.calls]
    results.put((rank, found))
    ranks.disconnect()
