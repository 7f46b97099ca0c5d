"""Requests of its own that a server answers before it listens: compiling takes long."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from lumina.errors import LuminaError
from lumina.infer.sampling import Sampling
from lumina.infer.serving.engine import Engine
from lumina.infer.serving.request import Request


class _Endless:
    """A tokenizer that says nothing and knows no end."""

    stop_ids: frozenset[int] = frozenset()

    def stream(self, prompt: list[int]) -> Any:
        """Of no text."""
        return SimpleNamespace(push=lambda token: "", flush=lambda cut_off: "")


def warm_up(engine: Engine) -> None:
    """Have every graph compiled that requests will need.

    Rows and tokens are symbolic, but for one of either: a prompt of several tokens and
    one of a single token, a step of one row and of two.

    Args:
        engine: nothing else asks it yet.

    Raises:
        LuminaError: E003 where an answer failed, with the reason.
    """
    silent: Any = _Endless()
    prompts = [[[0]], [[0, 0]]]
    if engine.limits.rows > 1:
        prompts.append([[0, 0], [0, 0, 0]])
    for together in prompts:
        room = engine.limits.tokens - max(map(len, together))
        if room < 1:
            continue
        greedy, new = Sampling(temperature=0), min(3, room)
        requests = [Request(ids, greedy, new, (), silent) for ids in together]
        for request in requests:
            engine.submit(request)
        for request in requests:
            _await(request)


def _await(request: Request) -> None:
    while not (said := request.said.get()).last:
        pass
    if said.problem is not None:
        raise LuminaError(
            "E003",
            f"the blocks could not be compiled: {said.problem.text}",
            "leave --compile out",
        )
