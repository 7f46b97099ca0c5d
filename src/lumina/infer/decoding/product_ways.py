"""How each product of a step is computed: by what was measured, else by a rule.

A product of few rows can be one Triton kernel with the norm before it, a norm and such
a kernel, or a norm and the library's product (and a gate). Which is fastest depends on
the device, the shape and the rows. `measure` takes the time of each once and keeps it
in ``LUMINA_CACHE/decoding-products.json``; programs made later read it there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lumina.model.layers import FeedForward
from lumina.model.moe import MoeFeedForward
from lumina.plan.measured_once import known_numbers, measured_once

if TYPE_CHECKING:
    from lumina.model.network import Network

FILE = "decoding-products.json"

FUSED, APART, LIBRARY = "fused", "norm apart", "library"

FEW = 1
"""Most rows for which, where nothing was measured, a product is the fused kernel.

On an H200 (benchmarks/results/decoding-h200.jsonl) the fused kernel was ahead at one
row (41.1 against 46.8 us for the products of a layer) and behind from two rows on,
where each of its programs normalises all rows again: at 8 rows 82.3 against 54.6.
"""

WIDE = 2**16
"""Outputs from which a product behind a norm is that of a vocabulary. There, and before
a gate, the kernel behind a norm of its own was ahead of the library by 4 to 8% at 2 to
32 rows; elsewhere the library was, by up to 22%."""

DOES_NOT_FIT = 1e12
"""Stands for the time of a way whose tiles do not fit on the device."""

ROUNDS = 5


class Product(NamedTuple):
    """What a choice is made for.

    Attributes:
        kind: "norm" (and a product), "gate" (norm, product, gate), "add" (a product,
            and the residual).
        inputs: of the matrix.
        outputs: of the matrix.
        rows: B.
        dtype: of the matrix, such as "bfloat16".
    """

    kind: str
    inputs: int
    outputs: int
    rows: int
    dtype: str


class Operations(NamedTuple):
    """The products of a step, as in `lumina.ops.one_token.reference`."""

    norm_linear: Callable[..., Tensor]
    norm_swiglu: Callable[..., Tensor]
    linear_add: Callable[..., Tensor]


Choose = Callable[[Product], str]
"""Gives the way of a product."""


def operations(module: Any, **options: int) -> Operations:
    """Those of a module.

    Args:
        module: with the functions of `Operations`.
        options: given to each of them.
    """
    found = (getattr(module, name) for name in Operations._fields)
    return Operations(*(partial(one, **options) if options else one for one in found))


class Products:
    """The products of a step, each by its way: a module like the reference.

    Args:
        ways: the operations, by the name of the way.
        choose: gives a name of `ways`; asked once for each product.

    Attributes:
        chosen: way of each product that was computed.
    """

    def __init__(self, ways: Mapping[str, Operations], choose: Choose) -> None:
        self._ways, self._choose = ways, choose
        self.chosen: dict[Product, str] = {}

    def norm_linear(
        self,
        x_bd: Tensor,
        scale: Tensor,
        eps: float,
        weight: Tensor,
        bias: Tensor | None = None,
        out: torch.dtype | None = None,
    ) -> Tensor:
        """As the reference."""
        way = self._way("norm", x_bd, weight)
        return way.norm_linear(x_bd, scale, eps, weight, bias, out)

    def norm_swiglu(
        self, x_bd: Tensor, scale: Tensor, eps: float, gate_up: Tensor
    ) -> Tensor:
        """As the reference."""
        way = self._way("gate", x_bd, gate_up)
        return way.norm_swiglu(x_bd, scale, eps, gate_up)

    def linear_add(self, x_bd: Tensor, weight: Tensor, residual_bn: Tensor) -> Tensor:
        """As the reference."""
        way = self._way("add", x_bd, weight)
        return way.linear_add(x_bd, weight, residual_bn)

    def _way(self, kind: str, x_bd: Tensor, weight: Tensor) -> Operations:
        product = product_of(kind, weight, len(x_bd))
        if product not in self.chosen:
            self.chosen[product] = self._choose(product)
        return self._ways[self.chosen[product]]


def product_of(kind: str, weight: Tensor, rows: int) -> Product:
    """The product of a matrix [N, D] with this many rows."""
    outputs, inputs = weight.shape
    dtype = str(weight.dtype).removeprefix("torch.")
    return Product(kind, inputs, outputs, rows, dtype)


def by_rule(product: Product) -> str:
    """The way of a product that was not measured."""
    if product.rows <= FEW:
        return FUSED
    wide = product.kind == "norm" and product.outputs >= WIDE
    return APART if wide or product.kind == "gate" else LIBRARY


def by_measurement(device: str, ways: Mapping[str, Operations]) -> Choose:
    """The way that took the least time here, or the rule's where one is not known.

    Args:
        device: its name, under which times are kept.
        ways: those that can be chosen.
    """
    known = known_numbers(FILE)

    def choose(product: Product) -> str:
        times = {way: known.get(_key(device, product, way)) for way in ways}
        if None in times.values():
            return by_rule(product)
        return min(times, key=lambda way: times[way] or 0.0)

    return choose


def measure(
    network: Network,
    rows: int,
    device: str,
    ways: Mapping[str, Operations],
    timed: Callable[[Callable[[Tensor], Tensor], list[Tensor]], float],
) -> dict[tuple[Product, str], float]:
    """Measure what is not known yet of a network's products; gives all of them.

    Args:
        network: whose blocks are plain (`lumina.infer.decoding.program.why_not`).
        rows: side by side.
        device: its name.
        ways: to compare.
        timed: microseconds of a function of one matrix, run for each of a list.
    """
    found = {}
    for kind, weights in _matrices(network).items():
        product = product_of(kind[0], weights[0], rows)
        for name, way in ways.items():
            run = _run(way, product, weights[0])
            key = _key(device, product, name)
            found[product, name] = measured_once(
                FILE, key, partial(timed, run, weights)
            )
    return found


def _key(device: str, product: Product, way: str) -> str:
    kind, inputs, outputs, rows, dtype = product
    shape = f"{kind} {outputs}x{inputs}, {rows} rows"
    return f"{device}, torch {torch.__version__}, {dtype}, {shape}, {way}"


def _matrices(network: Network) -> dict[tuple[str, torch.Size], list[Tensor]]:
    """The matrices of a network's plain products, by kind and shape."""
    found: dict[tuple[str, torch.Size], list[Tensor]] = {}
    for kind, weight in _each(network):
        found.setdefault((kind, weight.shape), []).append(weight.detach())
    return found


def _each(network: Network) -> Iterator[tuple[str, Tensor]]:
    backbone: Any = network.backbone
    objective: Any = network.objective
    for block in backbone.blocks:
        yield "norm", block.attention.qkv.weight
        yield "add", block.attention.out.weight
        fed = block.feedforward
        if isinstance(fed, MoeFeedForward):
            fed = fed.shared
        if isinstance(fed, FeedForward):
            yield "gate", fed.gate_up.weight
            yield "add", fed.down.weight
    yield "norm", objective.matrix(network._tied)


def _run(way: Operations, product: Product, like: Tensor) -> Callable[[Tensor], Tensor]:
    """A product of some rows, as a function of the matrix."""
    x_bd = torch.ones(product.rows, product.inputs).to(like)
    scale = x_bd[0]
    residual_bn = torch.zeros(product.rows, product.outputs).to(like)
    if product.kind == "add":
        return lambda weight: way.linear_add(x_bd, weight, residual_bn)
    if product.kind == "gate":
        return lambda weight: way.norm_swiglu(x_bd, scale, 1e-5, weight)
    return lambda weight: way.norm_linear(x_bd, scale, 1e-5, weight)


def microseconds(run: Callable[[Tensor], Tensor], weights: list[Tensor]) -> float:
    """What one product takes on a GPU, recorded: the least of some rounds.

    Args:
        run: the product.
        weights: as many as a network has, so that they are read from memory.
    """
    from triton.runtime.errors import OutOfResources

    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(stream):
            run(weights[0])
    except OutOfResources:
        return DOES_NOT_FIT
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for weight in weights:
            run(weight)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times: list[float] = []
    for _ in range(ROUNDS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(weights))
    return min(times)
