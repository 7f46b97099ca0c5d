"""The recorded step and its kernels on a GPU, against the eager step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer.networks import MOE, prompts, tiny
from infer.test_decoding_step import ALL, DRAWN, GREEDY, _network
from lumina.infer.decoding.program import Program, measured_products
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import Step, fixed_shapes
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import Decoding, new_cache
from lumina.infer.sampling import Sampler, Sampling
from lumina.model.network import Network
from lumina.ops.one_token import library, reference
from ops.one_token_cases import compare, product_cases

pytestmark = pytest.mark.gpu

EAGER = StepSettings(graph="off", kernels="plain")
WIDE = {
    "hidden_size": 256,
    "num_heads": 8,
    "num_kv_heads": 2,
    "head_dim": 64,
    "intermediate_size": 320,
    "init_std": 0.06,
}
FUSED = {
    "grouped": WIDE,
    "norms of heads": WIDE | {"qk_norm": "rms"},
    "biases": WIDE | {"attention_bias": True},
    "window": WIDE | {"window_size": 6},
    "window and sinks": WIDE | {"window_size": 4, "attention_sinks": 2},
    "tied": WIDE | {"tie_embeddings": True},
    "experts": WIDE | {"moe": MOE},
}


def _answers(
    network: Network,
    sampling: Sampling,
    stepping: StepSettings,
    stop: list[int] | None = None,
    workspace: Workspace | None = None,
) -> Decoding:
    decoding = Decoding(
        network,
        prompts(5),
        sampling,
        max_new_tokens=20,
        stop_ids=stop or [],
        stepping=stepping,
        workspace=workspace,
    )
    list(decoding)
    return decoding


@pytest.mark.covers("INF-09")
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ALL)
def test_a_recorded_step_chooses_the_tokens_of_the_eager_one(
    name: str, sampling: Sampling
) -> None:
    network = _network(name).cuda()
    eager = _answers(network, sampling, EAGER)
    stop = [eager.new_ids[0][5], eager.new_ids[2][9]]
    eager = _answers(network, sampling, EAGER, stop)
    recorded = _answers(network, sampling, StepSettings("on", "plain"), stop)
    assert recorded.path == "cuda graph" and eager.path.startswith("eager")
    assert recorded.new_ids == eager.new_ids and recorded.reasons == eager.reasons


def test_a_workspace_gives_the_recording_to_the_next_answers() -> None:
    network, workspace = _network("experts and window").cuda(), Workspace()
    runners = []
    for sampling in (GREEDY, GREEDY, DRAWN):
        alone = _answers(network, sampling, EAGER)
        shared = _answers(network, sampling, StepSettings("on"), workspace=workspace)
        assert shared.new_ids == alone.new_ids
        runners.append(shared._runner)
    assert runners[0] is runners[1] is not runners[2]


def test_a_span_that_grows_is_recorded_anew() -> None:
    network = tiny(seq_length=1024, num_kv_heads=2).cuda()
    prompt = [prompts(1)[0] * 40]
    found = []
    for stepping in (EAGER, StepSettings("on")):
        one = Decoding(network, prompt, GREEDY, max_new_tokens=90, stepping=stepping)
        list(one)
        found.append(one.new_ids)
    assert found[0] == found[1] and len(found[0][0]) == 90


@pytest.mark.covers("KRN-15")
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_every_kernel_is_its_reference(kind: torch.dtype) -> None:
    torch.manual_seed(1)
    shapes = [(1, 512, 384), (3, 256, 96), (20, 320, 136), (32, 1024, 512)]
    within = 1e-4 if kind == torch.float32 else 0.04
    assert compare(kind, "cuda", shapes, within) == 77


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_library_is_the_reference(kind: torch.dtype) -> None:
    torch.manual_seed(2)
    for rows, inputs, outputs in [(1, 512, 384), (3, 256, 96), (32, 1024, 512)]:
        cases = product_cases(rows, inputs, outputs, kind, "cuda")
        for function, given in cases.values():
            if not function.startswith("experts"):
                expected = getattr(reference, function)(*given)
                got = getattr(library, function)(*given)
                torch.testing.assert_close(got, expected, atol=0.04, rtol=0.04)


def test_products_are_measured_once_and_chosen_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    network = _half(FUSED["grouped"])
    found = measured_products(network, 8)
    assert len(found) == 3 * 5 and all(0 < time < 1e4 for time in found.values())
    assert measured_products(network, 8) == found
    program = Program(network, 8)
    ids = torch.randint(0, 61, (8, 9), device="cuda")
    cache = new_cache(network, 8, 40)
    with torch.inference_mode():
        network.logits(ids[:, :8], cache=cache)
        with fixed_shapes(network, cache):
            program.logits(ids[:, 8:], cache)
    for product, way in program.products.chosen.items():
        times = {name: time for (one, name), time in found.items() if one == product}
        assert times[way] == min(times.values())


def _half(changes: dict[str, object]) -> Network:
    network = tiny(**changes).cuda().bfloat16().eval()
    network.backbone.compute_dtype = torch.bfloat16
    return network


def _logits_of(network: Network, ids: torch.Tensor, kernels: str) -> torch.Tensor:
    """Logits of the last columns, one step each, by these kernels."""
    rows, device = len(ids), torch.device("cuda")
    cache = new_cache(network, rows, 40)
    stepping = StepSettings(kernels=kernels)
    step = Step(network, cache, Sampler(GREEDY, rows), rows, device, stepping)
    assert step.kernels == kernels
    logits = []
    with torch.inference_mode():
        network.logits(ids[:, :8], cache=cache)
        for one in ids[:, 8:].split(1, dim=1):
            with fixed_shapes(network, cache):
                logits.append(step._logits(one).clone())
    return torch.stack(logits)


@pytest.mark.covers("KRN-15")
@pytest.mark.parametrize("rows", [1, 5, 33])
@pytest.mark.parametrize("name", FUSED)
def test_fused_kernels_are_as_exact_as_plain_ones(name: str, rows: int) -> None:
    network = _half(FUSED[name])
    ids = torch.randint(0, 61, (rows, 12), device="cuda")
    plain, fused = (_logits_of(network, ids, k) for k in ("plain", "fused"))
    network.float().backbone.compute_dtype = torch.float32
    exact = _logits_of(network, ids, "plain")
    errors = [(one - exact).abs().mean() / exact.std() for one in (plain, fused)]
    assert errors[1] < 1.3 * errors[0] + 1e-3, errors


@pytest.mark.parametrize("name", FUSED)
def test_a_recorded_step_of_fused_kernels_is_the_same_eagerly(name: str) -> None:
    network = _half(FUSED[name])
    found = []
    for graph in ("off", "on"):
        one = _answers(network, DRAWN, StepSettings(graph, "fused"))
        found.append(one.new_ids)
    assert found[0] == found[1]
    assert one.path == "cuda graph, fused"


@pytest.mark.parametrize("name", FUSED)
def test_batch_invariant_rows_give_the_bits_they_give_alone(
    name: str,
) -> None:
    network = _half(FUSED[name])
    torch.manual_seed(3)
    rows = [torch.randint(0, 61, (n % 11 + 1,)).tolist() for n in range(33)]
    alone = StepSettings("on", "fused", batch_invariant=True)
    together = Decoding(network, rows, DRAWN, max_new_tokens=12, stepping=alone)
    list(together)
    assert together.path == "cuda graph, fused"
    for number in (0, 7, 17, 32):
        one = Decoding(
            network, [rows[number]], DRAWN, max_new_tokens=12, stepping=alone
        )
        list(one)
        assert one.new_ids == [together.new_ids[number]]

    found = []
    for some in (list(range(33)), [17]):
        cache = new_cache(network, len(some), 40, apart=True)
        sampler = Sampler(GREEDY, len(some))
        step = Step(network, cache, sampler, len(some), torch.device("cuda"), alone)
        with torch.inference_mode():
            for ids, _ in cache.read_prompts([rows[i] for i in some], 64, step.device):
                network.logits(ids, cache=cache)
            feed = torch.tensor([[rows[i][0]] for i in some], device="cuda")
            with fixed_shapes(network, cache):
                found.append(step._logits(feed))
    assert torch.equal(found[0][17], found[1][0])


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("name", ["grouped", "experts and window", "depth"])
def test_recorded_guesses_give_the_answers_of_plain_steps(
    name: str, sampling: Sampling
) -> None:
    network = _network(name).cuda()
    eager = _answers(network, sampling, EAGER)
    stop = [eager.new_ids[0][5]]
    eager = _answers(network, sampling, EAGER, stop)
    guessed = _answers(network, sampling, StepSettings("on", speculate=4), stop)
    assert guessed.path.startswith("cuda graph")
    assert guessed.new_ids == eager.new_ids and guessed.reasons == eager.reasons
