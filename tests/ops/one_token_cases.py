"""Random inputs of the operations of one token, and kernels beside references.

Run as a script it compares them under Triton's interpreter, on the CPU.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # before Triton is imported
    os.environ["TRITON_INTERPRET"] = "1"

import torch
from torch import Tensor

from lumina.ops.one_token import reference
from lumina.ops.one_token.reference import HeadNorms, Heads, Places


def product_cases(
    rows: int, inputs: int, outputs: int, kind: torch.dtype, device: str
) -> dict[str, tuple[str, tuple[object, ...]]]:
    """Name of a case -> the operation and its arguments."""

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(kind)

    x, weight = some(rows, inputs), some(outputs, inputs) / inputs**0.5
    both = some(2 * outputs, inputs) / inputs**0.5
    scale, eps = some(inputs), 1e-5
    scores, ids = torch.rand(rows, 5, device=device).topk(2)
    gate_up = some(5, 2 * outputs, inputs) / inputs**0.5
    down = some(5, inputs, outputs) / outputs**0.5
    hidden = some(rows, 2, outputs)
    return {
        "norm": ("norm_linear", (x, scale, eps, weight)),
        "norm and bias": ("norm_linear", (x, scale, eps, weight, some(outputs))),
        "float32": ("norm_linear", (x, scale, eps, weight, None, torch.float32)),
        "gate": ("norm_swiglu", (x, scale, eps, both)),
        "residual": ("linear_add", (x, weight, some(rows, outputs))),
        "experts": ("experts_swiglu", (x, gate_up, ids)),
        "experts' sum": (
            "experts_down_add",
            (hidden, down, ids, scores.contiguous(), some(rows, inputs)),
        ),
    }


def attention_case(
    heads: Heads, norm: bool, window: int, kind: torch.dtype, device: str
) -> tuple[object, ...]:
    """Arguments of `attend` of four rows, one of which sees nothing but itself."""
    rows, capacity, span = 4, 150, 140

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).to(kind)

    qkv = some(rows, (heads.queries + 2 * heads.keys) * heads.width)
    norms = HeadNorms(some(heads.width), some(heads.width), 1e-5) if norm else None
    angle = torch.randn(rows, heads.width // 2, device=device)
    slot = torch.tensor([0, 5, 70, 139], device=device)
    time = torch.arange(span, device=device)
    seen = (time <= slot[:, None]) & (time > slot[:, None] - (window or span))
    places = Places(angle.cos(), angle.sin(), slot, seen)
    held = (rows, heads.keys, capacity, heads.width)
    return qkv, heads, norms, places, some(*held), some(*held)


def in_a_pool(case: tuple[object, ...]) -> tuple[object, ...]:
    """The same attention over a pool in which the rows' slots lie mixed."""
    qkv, heads, norms, places, keys, values = case
    assert isinstance(places, Places) and isinstance(keys, Tensor)
    rows, span = places.seen_bt.shape
    order = torch.randperm(rows * span + 9, device=keys.device)[: rows * span]
    columns = order.view(rows, span)
    held = []
    for one in (keys, values):
        assert isinstance(one, Tensor)
        pool = one.new_zeros(1, one.shape[1], rows * span + 9, one.shape[3])
        pool[0, :, columns] = one[:, :, :span].transpose(0, 1)
        held.append(pool)
    return qkv, heads, norms, places._replace(columns_bt=columns), *held


HEADS = (Heads(4, 2, 32), Heads(4, 4, 64), Heads(8, 1, 32))


def compare(kind: torch.dtype, device: str, shapes: object, within: float) -> int:
    """Assert that every kernel gives what its reference gives; returns how many."""
    from lumina.ops.one_token import apart, attention, products

    count = 0
    for rows, inputs, outputs in shapes:  # type: ignore[attr-defined]
        cases = product_cases(rows, inputs, outputs, kind, device)
        for name, (function, arguments) in cases.items():
            got = getattr(products, function)(*arguments)
            expected = getattr(reference, function)(*arguments)
            torch.testing.assert_close(
                got, expected, atol=within, rtol=within, msg=lambda m, n=name: n + m
            )
            count += 1
            if hasattr(apart, function):
                got = getattr(apart, function)(*arguments)
                torch.testing.assert_close(
                    got, expected, atol=within, rtol=within, msg=lambda m, n=name: n + m
                )
                count += 1
            if rows == 1 and function in ("norm_linear", "norm_swiglu", "linear_add"):
                got = getattr(products, function)(*arguments, rows=1)
                torch.testing.assert_close(
                    got, expected, atol=within, rtol=within, msg=lambda m, n=name: n + m
                )
                count += 1
    for heads in HEADS:
        for norm in (False, True):
            for window in (0, 60):
                case = attention_case(heads, norm, window, kind, device)
                *start, keys, values = case
                mine, theirs = (
                    [keys.clone(), values.clone()]  # type: ignore[attr-defined]
                    for _ in range(2)
                )
                got = attention.attend(*start, *mine)  # type: ignore[arg-type]
                expected = reference.attend(*start, *theirs)  # type: ignore[arg-type]
                torch.testing.assert_close(got, expected, atol=within, rtol=within)
                torch.testing.assert_close(mine, theirs, atol=within, rtol=within)
                count += 1
                case = in_a_pool(case)
                *start, keys, values = case
                mine, theirs = (
                    [keys.clone(), values.clone()]  # type: ignore[attr-defined]
                    for _ in range(2)
                )
                pooled = attention.attend(*start, *mine)  # type: ignore[arg-type]
                again = reference.attend(*start, *theirs)  # type: ignore[arg-type]
                torch.testing.assert_close(pooled, got, atol=within, rtol=within)
                torch.testing.assert_close(again, expected, atol=within, rtol=within)
                torch.testing.assert_close(mine, theirs, atol=within, rtol=within)
                count += 1
    return count


if __name__ == "__main__":
    from lumina.ops.one_token import products

    torch.manual_seed(int(sys.argv[1]))
    small = products.Tile(16, 32, 4, 1)
    products.TILES = dict.fromkeys(products.TILES, small)
    print(compare(torch.float32, "cpu", [(1, 64, 32), (20, 40, 21)], 1e-4))
