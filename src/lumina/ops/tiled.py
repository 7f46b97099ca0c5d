"""A function of tokens, computed for a tile of them at a time.

What it computes inside is not kept: the backward pass computes each tile again. Memory
for the inside is that of one tile, however many tokens there are (the tiled MLP of
Arctic Long Sequence Training, Bekman et al., 2025, arXiv:2506.13996).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., Tensor]
"""Tiles of the inputs [t, ...], then all weights, to [t, width]."""


def tiled(
    run: Run,
    inputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    tile: int,
    overwrite: bool = False,
) -> Tensor:
    """`run` over tiles of at most `tile` tokens; the whole at once where it is shorter.

    The gradient of a weight is summed over tiles in float32, so it does not depend on
    how many there are, up to the rounding of one sum.

    Args:
        run: a function of each token alone. Random numbers may be drawn in it.
        inputs: [T, ...] each.
        weights: what `run` computes with, given to it after the inputs; leaves of the
            graph may be used by `run` itself instead.
        tile: tokens.
        overwrite: the gradients of the inputs may take their places; then nothing else
            may need the inputs in the backward pass.

    Returns:
        [T, width].
    """
    if inputs[0].shape[0] <= tile:
        return run(*inputs, *weights)
    how = run, tile, len(inputs), overwrite
    whole: Tensor = _Tiled.apply(how, *inputs, *weights)
    return whole


How = tuple[Run, int, int, bool]
"""The function, the tokens of a tile, the number of inputs, `overwrite`."""


class _Tiled(torch.autograd.Function):
    """Tiles without a graph forwards, each with its own backwards."""

    @staticmethod
    def forward(ctx: Any, how: How, *tensors: Tensor) -> Tensor:
        run, tile, count, _ = ctx.how = how
        inputs, weights = tensors[:count], tensors[count:]
        ctx.random = _random_state(inputs[0])
        ctx.save_for_backward(*tensors)
        out: Tensor | None = None
        for rows in _rows(inputs[0].shape[0], tile):
            part = run(*(one[rows] for one in inputs), *weights)
            if out is None:
                out = part.new_empty((inputs[0].shape[0], *part.shape[1:]))
            out[rows] = part
        assert out is not None
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> Any:  # type: ignore[override]
        if ctx.how is None:
            raise RuntimeError(
                "tiles that were told to overwrite their inputs go back once"
            )
        tensors, (run, tile, count, overwrite) = ctx.saved_tensors, ctx.how
        ctx.how = None if overwrite else ctx.how
        wanted = ctx.needs_input_grad[1:]
        inputs = tensors[:count]
        # A leaf may be used by `run` itself; of anything else it is given a copy.
        weights = [
            one if one.is_leaf else one.detach().requires_grad_(want)
            for one, want in zip(tensors[count:], wanted[count:], strict=True)
        ]
        learned = [i for i, want in enumerate(wanted[count:]) if want]
        sums = {i: torch.zeros_like(weights[i], dtype=torch.float32) for i in learned}
        grads = [
            (one.detach() if overwrite else torch.empty_like(one)) if want else None
            for one, want in zip(inputs, wanted, strict=False)
        ]
        moved = [i for i, grad in enumerate(grads) if grad is not None]
        with _AsBefore(ctx.random, inputs[0]):
            for rows in _rows(inputs[0].shape[0], tile):
                parts = [one[rows].detach() for one in inputs]
                for i in moved:
                    parts[i].requires_grad_()
                with torch.enable_grad():
                    y = run(*parts, *weights)
                over = [parts[i] for i in moved] + [weights[i] for i in learned]
                found = torch.autograd.grad(y, over, grad_out[rows], allow_unused=True)
                for i, grad in zip(moved, found[: len(moved)], strict=True):
                    into = grads[i]
                    assert into is not None
                    if grad is None:
                        into[rows] = 0
                    else:
                        into[rows] = grad
                for i, grad in zip(learned, found[len(moved) :], strict=True):
                    if grad is not None:
                        sums[i] += grad
        of_weights = [
            sums[i].to(one.dtype) if i in sums else None
            for i, one in enumerate(weights)
        ]
        return None, *grads, *of_weights


def _rows(tokens: int, tile: int) -> list[slice]:
    return [slice(at, min(at + tile, tokens)) for at in range(0, tokens, tile)]


def _random_state(like: Tensor) -> tuple[Tensor, Tensor | None]:
    """The states of the generators that a computation on this device may use."""
    cuda = torch.cuda.get_rng_state(like.device) if like.is_cuda else None
    return torch.get_rng_state(), cuda


class _AsBefore:
    """Random numbers as they were drawn forwards, and afterwards as they went on."""

    def __init__(self, state: tuple[Tensor, Tensor | None], like: Tensor) -> None:
        self.state, self.like = state, like

    def _set(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.like.device)

    def __enter__(self) -> None:
        self.now = _random_state(self.like)
        self._set(self.state)

    def __exit__(self, *_: object) -> None:
        self._set(self.now)
