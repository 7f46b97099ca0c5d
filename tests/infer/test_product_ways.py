"""How a product of a step is chosen, and that every way computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from infer.networks import MOE, tiny
from lumina.infer.decoding import product_ways
from lumina.infer.decoding.product_ways import (
    FILE,
    FUSED,
    LIBRARY,
    Product,
    Products,
    by_measurement,
    by_rule,
    measure,
    operations,
)
from lumina.infer.decoding.program import measured_products
from lumina.infer.sampling import largest
from lumina.ops.one_token import library, reference
from ops.one_token_cases import product_cases

WAYS = {FUSED: operations(reference), LIBRARY: operations(library)}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 24, 40), (3, 64, 21), (32, 16, 128)])
def test_the_library_gives_what_the_reference_gives(
    kind: torch.dtype, shape: tuple[int, int, int]
) -> None:
    torch.manual_seed(sum(shape))
    within = 1e-5 if kind == torch.float32 else 0.04
    for name, (function, given) in product_cases(*shape, kind, "cpu").items():
        if function.startswith("experts"):
            continue
        expected = getattr(reference, function)(*given)
        got = getattr(library, function)(*given)
        assert got.dtype == expected.dtype
        torch.testing.assert_close(
            got, expected, atol=within, rtol=within, msg=lambda m, n=name: n + m
        )


class Clock:
    """Takes no time: the library is the faster one from 3 rows on."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, run: Callable[[Tensor], Tensor], weights: list[Tensor]) -> float:
        rows = {len(run(weight)) for weight in weights}.pop()
        self.asked.append(rows)
        first = len(self.asked) % 2 == 1  # ways are measured in their order
        return 5.0 if first == (rows >= 3) else 2.0


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    return tmp_path


def test_each_product_goes_the_way_that_took_the_least_time(cache: Path) -> None:
    network, clock = tiny(100, moe=MOE, num_kv_heads=2), Clock()
    with torch.inference_mode():
        for rows in (1, 8):
            found = measure(network, rows, "card", WAYS, clock)
            # Of a dense block four products, and the head; `out` and `down` differ.
            assert len(found) == 2 * 5
            again = measure(network, rows, "card", WAYS, clock)
            assert found == again
    assert clock.asked == [1] * 10 + [8] * 10
    choose = by_measurement("card", WAYS)
    ways = {(product.rows, choose(product)) for product, _ in found}
    assert ways == {(8, LIBRARY)}
    one = next(iter(found))[0]._replace(rows=1)
    assert choose(one) == FUSED
    kept = (cache / FILE).read_text()
    shape = "gate 96x32, 8 rows, library"
    assert f"card, torch {torch.__version__}, float32, {shape}" in kept
    (cache / FILE).write_text(kept.replace("2.0", "9.0"))  # read, not remembered
    assert by_measurement("card", WAYS)(one) == LIBRARY


def test_where_nothing_was_measured_a_rule_decides(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = Product("norm", 64, 32, 1, "bfloat16")
    choose = by_measurement("card", WAYS)
    assert choose(product) == by_rule(product) == FUSED
    assert choose(product._replace(rows=32)) == LIBRARY
    # One of two ways is not enough to compare.
    key = product_ways._key("card", product, LIBRARY)
    (cache / FILE).write_text(f'{{"{key}": 0.1}}')
    assert by_measurement("card", WAYS)(product) == FUSED


def test_a_way_is_chosen_once_for_each_product() -> None:
    asked: list[Product] = []

    def choose(product: Product) -> str:
        asked.append(product)
        return LIBRARY

    products = Products(WAYS, choose)
    x, scale, weight = torch.randn(3, 8), torch.ones(8), torch.randn(8, 8)
    for _ in range(2):
        y = products.norm_linear(x, scale, 1e-5, weight, out=torch.float64)
        products.linear_add(x, weight, torch.zeros(3, 8))
    assert y.dtype == torch.float64
    assert asked == [Product(kind, 8, 8, 3, "float32") for kind in ("norm", "add")]


def test_nothing_is_measured_where_there_are_no_such_kernels(cache: Path) -> None:
    assert measured_products(tiny(), 4) == {}
    assert not (cache / FILE).exists()


@pytest.mark.parametrize("width", [3, 63, 64, 128, 321])
def test_the_largest_number_is_the_first_of_its_kind(width: int) -> None:
    torch.manual_seed(width)
    logits = torch.randint(0, 4, (50, width)).float()  # with many alike
    logits[7] = -torch.inf
    top, place = largest(logits)
    assert torch.equal(top, logits.amax(-1))
    first = (logits == top[:, None]).int().argmax(-1)
    assert torch.equal(place, first)
    logits[3, width // 2] = torch.nan
    assert largest(logits)[0].isnan().sum() == 1
