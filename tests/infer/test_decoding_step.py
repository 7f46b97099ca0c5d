"""The step of fixed shape is the step that follows the data, for every architecture."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from infer.networks import MOE, SHAPES, prompts, tiny
from lumina.errors import LuminaError
from lumina.infer import generate as module
from lumina.infer.cache import KVCache
from lumina.infer.decoding.product_ways import Products, operations
from lumina.infer.decoding.program import Program, why_not_plain
from lumina.infer.decoding.recording import Runner
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.speculation import SpeculativeStep
from lumina.infer.decoding.step import Step, fixed_shapes
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import Decoding, evaluating
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.kv.static_cache import StaticCache
from lumina.infer.sampling import Sampler, Sampling
from lumina.model.network import Network
from lumina.model.spec import HrmSpec, ModSpec, MorSpec
from lumina.ops.attention.beyond import Beyond
from lumina.ops.moe import few, reference
from lumina.ops.one_token import library
from lumina.ops.one_token import reference as one_token_reference

GREEDY = Sampling(temperature=0)
DRAWN = Sampling(temperature=1.0, top_k=0, top_p=0.95, seed=11)

CHOOSING = {
    "depth": {"mod": ModSpec(layers=(0, 2), capacity=0.5, ladder=(0.5,))},
    "depth of feed-forwards": {
        "mod": ModSpec(layers=(1,), capacity=0.5, ladder=(0.5,), scope="feedforward")
    },
    "depth, experts and window": {
        "mod": ModSpec(layers=(1,), capacity=0.5, ladder=(0.5,)),
        "moe": MOE,
        "window_size": 6,
    },
    "recursion": {"mor": MorSpec(recursions=3)},
    "recursion with shared keys": {"mor": MorSpec(recursions=3, kv_sharing=True)},
    "reasoner": {
        "hrm": HrmSpec(mode="language_model", h_layers=1, l_layers=2, halt_max_steps=3)
    },
}
ALL = SHAPES | CHOOSING


@pytest.fixture(params=ALL, scope="module")
def architecture(request: pytest.FixtureRequest) -> Network:
    return _network(request.param)


def _network(name: str) -> Network:
    network = tiny(**ALL[name])
    if name in CHOOSING:  # predictors begin undecided: let them want some tokens
        torch.manual_seed(5)
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                if "predictor" in key or "router" in key or "halting" in key:
                    parameter.add_(0.5 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture
def by_growing_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`Decoding` with the cache whose shapes follow the rows."""

    def grown(
        network: Network,
        rows: int = 1,
        capacity: int = 0,
        *,
        padding: torch.Tensor | None = None,
        settings: CacheSettings | None = None,
        apart: bool = False,
    ) -> KVCache:
        window, beyond = CacheSettings().sight(network)
        return KVCache(rows, window=window, beyond=beyond, padding=padding)

    with monkeypatch.context() as patched:
        patched.setattr(module, "new_cache", grown)
        yield


def _answers(network: Network, sampling: Sampling, stop: list[int]) -> Decoding:
    decoding = Decoding(network, prompts(5), sampling, max_new_tokens=14, stop_ids=stop)
    list(decoding)
    return decoding


@pytest.mark.covers("INF-10: MoE", "INF-10: MoD", "INF-04: KV-cached decoding")
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_tokens_are_those_of_a_cache_that_grows(
    architecture: Network, sampling: Sampling, request: pytest.FixtureRequest
) -> None:
    free = _answers(architecture, sampling, [])
    assert isinstance(free._cache, StaticCache)
    stops = [free.new_ids[0][4], free.new_ids[2][7]]
    fixed = _answers(architecture, sampling, stops)
    request.getfixturevalue("by_growing_cache")
    grown = _answers(architecture, sampling, stops)
    assert isinstance(grown._cache, KVCache)
    assert fixed.new_ids == grown.new_ids and fixed.reasons == grown.reasons
    assert "stop" in fixed.reasons


def test_logits_are_those_of_whole_rows(architecture: Network) -> None:
    torch.manual_seed(0)
    ids = torch.randint(0, 61, (2, 30))
    cache = StaticCache(
        2,
        window=architecture.spec.window_size,
        beyond=architecture.spec.beyond_window,
        capacity=30,
    )
    parts = []
    with torch.inference_mode():
        whole = architecture.logits(ids)
        parts.append(architecture.logits(ids[:, :7], cache=cache))
        for one in ids[:, 7:].split(1, dim=1):
            with fixed_shapes(architecture, cache):
                parts.append(architecture.logits(one, cache=cache))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.covers("INF-10: MoE", "INF-10: MoD")
def test_no_step_asks_the_device_anything(architecture: Network) -> None:
    """Without data there is nothing to ask: `meta` tensors refuse every question."""
    import copy

    shadow = copy.deepcopy(architecture).to("meta")
    device = torch.device("meta")
    spec = architecture.spec
    cache = StaticCache(
        3, device, window=spec.window_size, beyond=spec.beyond_window, capacity=20
    )
    cache.span = 20
    step = Step(shadow, cache, Sampler(DRAWN, 3), 3, device)
    with torch.inference_mode():
        with fixed_shapes(shadow, cache):
            shadow.logits(torch.zeros(3, 9, dtype=torch.int64, device=device), cache)
        for _ in range(3):
            step.refill()
            step.run()
    assert cache.length == 12 and step.tokens.shape == (3,)
    settings = StepSettings(speculate=2)
    guessing = SpeculativeStep(
        shadow, cache, Sampler(DRAWN, 3), 3, device, settings, columns=20
    )
    with torch.inference_mode():
        guessing.run()
    assert cache.length == 15 and guessing.tokens.shape == (3, 3)


def test_a_step_reads_a_longer_span_as_if_it_were_shorter(
    architecture: Network,
) -> None:
    ids = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(4))
    found = []
    for span in (0, 50):
        cache = StaticCache(
            2,
            window=architecture.spec.window_size,
            beyond=architecture.spec.beyond_window,
            capacity=50,
        )
        with torch.inference_mode():
            architecture.logits(ids[:, :11], cache=cache)
            cache.span = span
            with fixed_shapes(architecture, cache):
                found.append(architecture.logits(ids[:, 11:], cache=cache))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("sinks", [0, 2])
def test_a_cache_that_grows_moves_what_it_holds(window: int, sinks: int) -> None:
    if sinks and not window:
        return
    network = tiny(window_size=window, attention_sinks=sinks)
    ids = torch.randint(0, 61, (1, 60), generator=torch.Generator().manual_seed(1))
    kinds = {"window": window, "beyond": Beyond(sinks), "at_once": 3}
    small = StaticCache(1, capacity=4, **kinds)
    with torch.inference_mode(), evaluating(network):
        whole = network.logits(ids)
        pieces = ids.split([3, 2, 9, 1, 20, 25], dim=1)
        parts = [network.logits(one, cache=small) for one in pieces]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)
    if window:
        assert small.slots <= sinks + window + 24


def test_a_ring_forgets_what_its_window_has_left_and_says_so() -> None:
    network = tiny(window_size=4)
    ids = torch.randint(0, 61, (1, 40), generator=torch.Generator().manual_seed(2))
    cache = StaticCache(1, window=4, capacity=40, at_once=3)
    with torch.inference_mode(), evaluating(network):
        for one in ids[:, :30].split(3, dim=1):
            network.logits(one, cache=cache)
        assert not cache.rewind(20) and cache.length == 30
        assert cache.rewind(28)
        again = network.logits(ids[:, 28:31], cache=cache)
        assert not cache.rewind(26)
        whole = network.logits(ids[:, :31])
    torch.testing.assert_close(again, whole[:, 28:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 2, 3, 9])
@pytest.mark.covers("INF-10: MoE")
def test_few_tokens_go_through_their_experts(tokens: int) -> None:
    torch.manual_seed(tokens)
    x, gate_up, down = (
        torch.randn(*shape) for shape in ((tokens, 8), (5, 12, 8), (5, 8, 6))
    )
    scores, ids = torch.rand(tokens, 5).topk(2, dim=-1)
    got = few.routed_experts(x, gate_up, down, ids, scores)
    expected = reference.routed_experts(x, gate_up, down, ids, scores)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_a_row_whose_output_is_no_number_ends_generation() -> None:
    network = tiny()
    with torch.no_grad():
        network.backbone.norm.weight.fill_(float("nan"))
    with pytest.raises(LuminaError) as caught:
        list(Decoding(network, [[1, 2]], GREEDY, max_new_tokens=3))
    assert caught.value.code == "E301"


def test_where_nothing_can_be_recorded_asking_for_it_is_refused() -> None:
    network = tiny()
    with pytest.raises(LuminaError, match=r"E002.*the model is on cpu"):
        Decoding(network, [[1]], GREEDY, stepping=StepSettings(graph="on"))
    with pytest.raises(LuminaError, match=r"E005.*cuda-graph is 'maybe'"):
        StepSettings(graph="maybe")
    assert Decoding(network, [[1]], GREEDY).path == "eager"


class RunsAhead(Runner):
    """A runner that lets the host read tokens late, as a recorded step does."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.records = True

    def run(self) -> None:
        self.step.refill()
        self.step.run()


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_answers_in_a_workspace_are_those_without_one(
    architecture: Network, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Runner", RunsAhead)
    workspace, caches = Workspace(), []
    for rows in (prompts(4), prompts(5)[1:], prompts(3)):
        alone = Decoding(architecture, rows, sampling, max_new_tokens=8)
        shared = Decoding(
            architecture, rows, sampling, max_new_tokens=8, workspace=workspace
        )
        list(alone), list(shared)
        assert shared.new_ids == alone.new_ids
        caches.append(shared._cache)
    assert caches[0] is caches[1] is not caches[2]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_tokens_read_late_are_the_same_ones(
    sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = tiny(num_kv_heads=2, seq_length=24, pos_encodings="learned")
    free = _answers(network, sampling, [])
    stops = [free.new_ids[1][3]]
    expected = _answers(network, sampling, stops)
    monkeypatch.setattr(module, "Runner", RunsAhead)
    late = _answers(network, sampling, stops)
    assert late.new_ids == expected.new_ids and late.reasons == expected.reasons
    assert {"stop", "context"} <= set(late.reasons)


PLAIN = [
    "dense",
    "grouped",
    "one key head",
    "biases",
    "llama3",
    "window",
    "window and sinks",
    "window and dilation",
    "yarn",
    "tied",
    "experts",
    "experts and window",
]


def _by_turns() -> Products:
    """Products of which one kind after the other goes another way."""
    turns = itertools.cycle(["library", "reference", "library"])
    both = {"reference": one_token_reference, "library": library}
    ways = {name: operations(module) for name, module in both.items()}
    return Products(ways, lambda product: next(turns))


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("way", ["reference", "alone", "library", "by turns"])
def test_the_program_in_few_kernels_gives_the_logits_of_the_network(
    name: str, way: str
) -> None:
    network = _network(name)
    assert why_not_plain(network) == ""
    ids = torch.randint(0, 61, (3, 14), generator=torch.Generator().manual_seed(7))
    by_library = Products({"": operations(library)}, lambda product: "")
    ways = {"library": by_library, "by turns": _by_turns()}
    program = Program(network, 3, one_token_reference, way == "alone", ways.get(way))
    found = []
    for fused in (False, True):
        cache = StaticCache(
            3,
            window=network.spec.window_size,
            beyond=network.spec.beyond_window,
            padding=torch.tensor([0, 3, 8]),
            capacity=20,
        )
        parts = []
        with torch.inference_mode():
            network.logits(ids[:, :9], cache=cache)
            for one in ids[:, 9:].split(1, dim=1):
                with fixed_shapes(network, cache):
                    if fused:
                        parts.append(program.logits(one, cache))
                    else:
                        parts.append(network.logits(one, cache=cache)[:, 0])
        found.append(torch.stack(parts))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_models_of_other_blocks_keep_their_own_kernels() -> None:
    others = set(ALL) - set(PLAIN) - {"experts with capacity"}
    assert all(why_not_plain(_network(name)) for name in others)
    network = tiny()
    assert Decoding(network, [[1]], GREEDY)._step.kernels == "plain"
    with pytest.raises(LuminaError, match=r"E002.*need CUDA and Triton"):
        Decoding(network, [[1]], GREEDY, stepping=StepSettings(kernels="fused"))
