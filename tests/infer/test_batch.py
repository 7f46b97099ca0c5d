"""Requests that come and go, side by side: each answers as it would alone."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infer.networks import tiny
from infer.test_decoding_step import _network
from lumina.errors import LuminaError
from lumina.infer.decoding import seat_step as module
from lumina.infer.decoding.product_ways import Products, operations
from lumina.infer.decoding.program import Program
from lumina.infer.decoding.prompt_step import PromptStep
from lumina.infer.decoding.seat_step import SeatStep, Turn
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import fixed_shapes
from lumina.infer.generate import Decoding, evaluating
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.prompt_piece import PromptPiece
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.kv.static_seats import StaticSeats
from lumina.infer.sampling import Sampling
from lumina.infer.serving.batch import Batch
from lumina.infer.serving.request import Request
from lumina.infer.serving.seating import Limits, seats_for
from lumina.model.network import Network
from lumina.model.spec import PartsSpec
from lumina.ops.one_token import library, reference

BLOCKS = CacheSettings(block=4)
INVARIANT = StepSettings(batch_invariant=True)

NAMES = [
    "grouped",
    "latent",
    "window",
    "window and dilation",
    "experts and window",
    "depth",
    "depth, experts and window",
    "recursion",
    "recursion with shared keys",
    "reasoner",
]


class Letters:
    """A tokenizer of a letter for each token."""

    def __init__(self, stop_ids: set[int]) -> None:
        self.stop_ids = frozenset(stop_ids)

    def stream(self, prompt: list[int]) -> Any:
        return SimpleNamespace(
            push=lambda token: chr(65 + token), flush=lambda cut_off: ""
        )


def asked(seed: int, count: int = 9, shortest: int = 1) -> list[Request]:
    """Requests of many lengths and ways to draw, of which some begin alike."""
    draw, vocabulary = random.Random(seed), 61
    head = [draw.randrange(vocabulary) for _ in range(9)]
    ways = [
        Sampling(temperature=0),
        Sampling(temperature=1.0, top_k=0, top_p=0.95, seed=seed),
        Sampling(temperature=0.7, top_k=5, top_p=1.0, seed=seed + 1),
    ]
    found = []
    for number in range(count):
        tail = [draw.randrange(vocabulary) for _ in range(draw.randrange(1, 12))]
        prompt = [*head, *tail] if number % 3 else tail
        tokenizer: Any = Letters({draw.randrange(vocabulary) for _ in range(2)})
        length = draw.randrange(shortest, 15)
        found.append(Request(prompt, ways[number % 3], length, (), tokenizer))
    return found


def again(request: Request) -> Request:
    """The same request, not begun."""
    return Request(
        request.prompt, request.sampling, request.max_new_tokens, request.stop,
        request.tokenizer,
    )  # fmt: skip


def finish(batch: Batch) -> None:
    """Rounds until nothing is left."""
    with evaluating(batch._network):
        for _ in range(1000):
            if not batch.busy:
                return
            batch.round()
    raise AssertionError("the batch does not end")


def alone(network: Network, request: Request) -> Decoding:
    found = Decoding(
        network, [request.prompt], request.sampling,
        max_new_tokens=request.max_new_tokens, stop_ids=request.tokenizer.stop_ids,
    )  # fmt: skip
    list(found)
    return found


def reason(request: Request) -> str:
    """How a request ended, once its pieces are read."""
    last = ""
    while not request.said.empty():
        said = request.said.get()
        assert said.problem is None, said.problem
        last = said.reason or last
    return last


@pytest.mark.covers("INF-06", "INF-10: MoE", "INF-10: MoD")
@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_model_answers_requests_as_each_alone(name: str) -> None:
    ahead = NAMES.index(name) % 3
    network, requests = _network(name), asked(len(name), 7)
    batch = Batch(network, Limits(rows=4, tokens=40), BLOCKS)
    paged = not name.startswith(("depth", "recursion"))
    assert isinstance(batch.seats, PagedSeats if paged else StaticSeats)
    batch.ahead = ahead  # as on a GPU, where tokens are read that late
    for request in requests:
        batch.waiting.append(request)
        batch.round()
    finish(batch)
    for request in requests:
        expected = alone(network, request)
        assert request.new_ids == expected.new_ids[0]
        assert reason(request) == expected.reasons[0]
    assert all(one.seat is None for one in requests)
    assert isinstance(batch.seats, StaticSeats) or batch.seats.pool.in_use == 0


@pytest.fixture
def logits(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Any, torch.Tensor]]:
    """(number of the request, number of its token) -> the scores it was chosen from."""
    found: dict[Any, torch.Tensor] = {}
    choose, run, first = SeatStep._choose, SeatStep.run, SeatStep.first
    turns: dict[int, Turn] = {}

    def noted_run(self: SeatStep, given: Any) -> None:
        turns.clear()
        turns.update(given)
        run(self, given)

    def noted_first(self: SeatStep, seat: int, turn: Turn, given: Any) -> None:
        turns.clear()
        turns[seat] = turn
        first(self, seat, turn, given)

    def noted(self: SeatStep, rows: slice, most: int, given: torch.Tensor) -> None:
        for seat, row in zip(range(rows.start, rows.stop), given, strict=True):
            if seat in turns:
                request = next(one for one in RUNNING[0].running if one.seat == seat)
                key = id(request), request.begun
                before = found.setdefault(key, row.clone())
                assert torch.equal(before, row), "a token that is decided again differs"
        choose(self, rows, most, given)

    monkeypatch.setattr(SeatStep, "_choose", noted)
    monkeypatch.setattr(SeatStep, "run", noted_run)
    monkeypatch.setattr(SeatStep, "first", noted_first)
    yield found


RUNNING: list[Batch] = []


@pytest.mark.parametrize("name", ["grouped", "experts", "depth"])
@pytest.mark.parametrize("seed", range(2))
def test_batch_invariant_rows_have_the_logits_of_a_row_alone_to_the_last_bit(
    name: str, seed: int, logits: dict[Any, torch.Tensor]
) -> None:
    """Whatever arrives when, is put back for want of blocks, or goes before its end."""
    network, requests, draw = _network(name), asked(seed, 7, 10), random.Random(seed)
    paged = name != "depth"
    limits = Limits(rows=3, tokens=36, cache_tokens=36 if paged else 0)
    batch = Batch(network, limits, BLOCKS, INVARIANT)
    RUNNING[:] = [batch]
    batch.ahead = draw.choice([0, 2])
    put_back, returned, gone = batch._put_back, [], []
    batch._put_back = lambda one: (returned.append(one), put_back(one))  # type: ignore[assignment,func-returns-value]
    left = list(requests)
    with evaluating(network):
        while batch.busy or left:
            if left and draw.random() < 0.7:
                batch.waiting.append(left.pop())
            if not gone and len(left) == 2 and batch.running:
                gone = [draw.choice(batch.running)]
                gone[0].gone.set()
            batch.round()
    assert bool(returned) == paged and len(gone) == 1
    alike = [again(request) for request in requests]
    for request, single in zip(requests, alike, strict=True):
        one = Batch(network, Limits(rows=3, tokens=36), BLOCKS, INVARIANT)
        RUNNING[:] = [one]
        one.waiting.append(single)
        finish(one)
        begun = single.new_ids[: len(request.new_ids)] if request in gone else None
        assert request.new_ids == (single.new_ids if begun is None else begun)
        for number in range(len(request.new_ids)):
            beside = logits[id(request), number]
            assert torch.equal(beside, logits[id(single), number])


def test_rows_that_come_and_go_give_their_blocks_back() -> None:
    """Arrivals at any time, cancelled requests, a cache for little more than one."""
    network = _network("grouped")
    for seed in range(4):
        draw, requests = random.Random(seed), asked(seed, 8)
        limits = Limits(rows=4, tokens=40, cache_tokens=draw.choice([40, 64]))
        batch = Batch(network, limits, BLOCKS)
        batch.ahead = draw.choice([0, 1, 2])
        left, gone = list(requests), []
        with evaluating(network):
            while batch.busy or left:
                if left and draw.random() < 0.5:
                    batch.waiting.append(left.pop())
                if draw.random() < 0.1 and (there := batch.running or batch.waiting):
                    gone.append(draw.choice(list(there)))
                    gone[-1].gone.set()
                batch.round()
        assert batch.seats.pool.in_use == 0  # type: ignore[union-attr]
        for request in requests:
            expected = alone(network, request)
            if request in gone:
                whole = expected.new_ids[0]
                assert request.new_ids == whole[: len(request.new_ids)]
            else:
                assert request.new_ids == expected.new_ids[0]
                assert reason(request) == expected.reasons[0]


def test_what_several_prompts_begin_with_is_read_once() -> None:
    network = _network("grouped")
    head = list(range(20))
    tokenizer: Any = Letters(set())
    greedy = Sampling(temperature=0)
    read: list[int] = []
    inner = network.logits

    def logits(ids: torch.Tensor, **options: Any) -> torch.Tensor:
        read.append(ids.shape[1])
        return inner(ids, **options)

    network.logits = logits  # type: ignore[method-assign]
    for stepping in (StepSettings(), INVARIANT):
        batch = Batch(network, Limits(rows=2, tokens=40), BLOCKS, stepping)
        for tail in ([40, 41], [50], [40, 41]):
            batch.waiting.append(Request([*head, *tail], greedy, 1, (), tokenizer))
        read.clear()
        finish(batch)
        # Five blocks of the beginning, and what follows; the last token always.
        assert sum(read) == 22 + 1 + 2


@pytest.mark.parametrize("name", ["grouped", "window", "biases", "experts", "tied"])
@pytest.mark.parametrize("static", [False, True])
def test_few_kernels_over_seats_give_the_answers_of_the_network(
    name: str, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that a GPU runs, with its operations spelled out."""
    network, requests = _network(name), asked(3)
    products = Products({"": operations(library)}, lambda product: "")

    def program_of(
        network: Network, cache: Any, rows: int, settings: StepSettings
    ) -> tuple[Program, str]:
        return Program(network, rows, reference, products=products), "fused"

    monkeypatch.setattr(module, "program_of", program_of)
    batch = Batch(network, Limits(rows=4, tokens=40), BLOCKS)
    if static:
        device = torch.device("cpu")
        window, beyond = BLOCKS.sight(network)
        batch.seats = StaticSeats(
            4, device, window=window, beyond=beyond, capacity=40, at_once=16
        )
        batch.step = SeatStep(network, batch.seats, device, StepSettings())
    assert batch.step.path == "eager, fused"
    batch.waiting.extend(requests)
    finish(batch)
    for request in requests:
        assert request.new_ids == alone(network, request).new_ids[0]


@pytest.mark.covers("INF-10: MoE", "INF-10: MoD")
@pytest.mark.parametrize("name", NAMES)
def test_no_step_over_seats_asks_the_device_anything(name: str) -> None:
    """Without data there is nothing to ask: `meta` tensors refuse every question."""
    network, device = _network(name), torch.device("meta")
    shadow = copy.deepcopy(network).to(device)
    seats = seats_for(shadow, Limits(rows=3, tokens=40), BLOCKS)
    step = SeatStep(shadow, seats, device, StepSettings())
    drawn = Turn(Sampling(top_p=0.9), 0.5)
    with torch.inference_mode(), fixed_shapes(shadow, seats):
        for seat in (0, 2):
            assert seats.take(seat, [1, 2, 3]) == seats.length_of(seat) == 0
            with seats.reading(seat) as cache:
                if isinstance(cache, StaticSeats):
                    ids = torch.zeros(1, 3, dtype=torch.int64, device=device)
                    shadow.logits(ids, cache=cache)
                else:  # which asks, as a prompt may
                    cache.active[0].extend(3)
            step.first(seat, drawn, torch.zeros(1, 61, device=device))
        for _ in range(3):
            for seat in (0, 2):
                assert seats.make_room(seat, lambda: [1, 2, 3])
            step.run({0: drawn, 2: Turn(Sampling(temperature=0))})
    assert seats.length_of(2) == 6 and step.tokens.shape == (3,)


def test_models_that_remember_a_state_of_all_rows_are_refused() -> None:
    network = tiny()
    network.spec = replace(network.spec, parts=PartsSpec(block=("other",) * 3))
    with pytest.raises(LuminaError, match=r"E002.*side by side.*state of all rows"):
        seats_for(network, Limits(), BLOCKS)


def test_a_row_of_no_numbers_fails_alone() -> None:
    network, (bad, good) = _network("grouped"), asked(1, 2)
    batch = Batch(network, Limits(rows=2, tokens=40), BLOCKS)
    choose = batch.step._choose

    def spoilt(rows: slice, most: int, logits: torch.Tensor) -> None:
        logits = logits.clone()
        if rows.start == 0 and len(bad.new_ids) == 0 and bad.seat == 0:
            logits[0] = torch.nan
        choose(rows, most, logits)

    batch.step._choose = spoilt  # type: ignore[method-assign]
    batch.waiting.extend([bad, good])
    finish(batch)
    problem = bad.said.get().problem
    assert problem is not None and "E301" in problem.text
    assert good.new_ids == alone(network, good).new_ids[0]


@pytest.mark.parametrize(
    "name",
    ["grouped", "latent", "window and dilation", "experts and window", "reasoner"],
)
def test_prompts_in_passes_of_few_shapes_give_the_same_answers(name: str) -> None:
    """As a GPU reads them: padded in front, in several pieces, some blocks shared."""
    network, requests = _network(name), asked(len(name), 9)
    requests.append(Request([3] * 30, Sampling(temperature=0), 5, (), Letters(set())))  # type: ignore[arg-type]
    batch = Batch(network, Limits(rows=4, tokens=40, cache_tokens=60), BLOCKS)
    batch.prompts = batch.prompt_step()
    assert isinstance(batch.seats, PagedSeats)
    batch.seats.at_once = lambda columns: 18  # type: ignore[method-assign]
    shapes = set()
    inner = batch.prompts.recordings.run
    batch.prompts.recordings.run = lambda key, work: (  # type: ignore[method-assign]
        shapes.add(key), inner(key, work)
    )  # fmt: skip
    batch.waiting.extend(requests)
    finish(batch)
    assert {columns for columns, _ in shapes} == {16, 32}
    for request in requests:
        assert request.new_ids == alone(network, request).new_ids[0]
    assert batch.seats.pool.in_use == 0


def test_what_is_in_front_of_a_piece_is_written_where_nothing_sees_it() -> None:
    """Not over its first key: which of two writes is the last one is left open."""
    network = _network("grouped")
    seats = seats_for(network, Limits(rows=2, tokens=40), BLOCKS)
    assert isinstance(seats, PagedSeats)
    piece = PromptPiece(seats.pool, seats.sight, 40, 32, torch.device("cpu"))
    assert seats.take(1, [7] * 9) == 0
    with seats.reading(1) as cache:
        row = cache.active[0]
        piece.begin(row, [7] * 9)
        seen = piece.mask(piece.positions(piece.ids))
        assert piece.ids.tolist() == [[0] * 7 + [7] * 9]
        assert piece.positions(piece.ids).tolist() == [[0] * 8 + list(range(1, 9))]
        own = [row.blocks[at // 4] * 4 + at % 4 for at in range(9)]  # type: ignore[operator]
        nowhere = seats.pool.limit * 4  # type: ignore[operator]
        assert piece._write.tolist() == [[nowhere] * 7 + own]
        assert seen[0, 0].sum(-1).tolist() == [1] * 8 + list(range(2, 10))


@pytest.mark.parametrize("name", ["grouped", "latent", "window", "experts", "reasoner"])
def test_no_pass_over_a_prompt_asks_the_device_anything(name: str) -> None:
    network, device = _network(name), torch.device("meta")
    shadow = copy.deepcopy(network).to(device)
    seats = seats_for(shadow, Limits(rows=3, tokens=40), BLOCKS)
    assert isinstance(seats, PagedSeats)
    step = PromptStep(shadow, seats, 32, device, StepSettings())
    with torch.inference_mode():
        assert seats.take(1, [1] * 23) == 0
        with seats.reading(1, begun=False) as cache:
            step.logits(cache.active[0], [1] * 20)
        with seats.reading(1) as cache:
            assert step.logits(cache.active[0], [1] * 3).shape == (1, 61)
    assert seats.length_of(1) == 23


def test_several_prompts_are_read_in_a_round() -> None:
    network, requests = _network("grouped"), asked(2, 6)
    batch = Batch(network, Limits(rows=4, tokens=40), BLOCKS)
    batch.waiting.extend(requests)
    with evaluating(network):
        batch.round()
    assert len(batch.running) + sum(one.ended for one in requests) >= 4
    finish(batch)
    for request in requests:
        assert request.new_ids == alone(network, request).new_ids[0]
