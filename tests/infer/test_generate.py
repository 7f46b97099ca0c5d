from __future__ import annotations

import pytest
import torch

from infer.networks import MOE, prompts, tiny
from lumina.errors import LuminaError
from lumina.infer import generate as module
from lumina.infer.generate import Decoding, evaluating, generate, new_cache
from lumina.infer.sampling import Sampling

GREEDY = Sampling(temperature=0)


def without_cache(network, prompt, count):
    """The likeliest continuation, the whole sequence run anew for every token."""
    ids = list(prompt)
    with torch.inference_mode(), evaluating(network):
        for _ in range(count):
            ids.append(int(network.logits(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.covers("MOD-11: KV cache for generation", "INF-10: MoE")
def test_cached_logits_equal_the_logits_of_the_whole_sequence(network):
    torch.manual_seed(0)
    ids = torch.randint(0, 61, (2, 40))
    cache = new_cache(network, rows=2)
    with torch.inference_mode(), evaluating(network):
        whole = network.logits(ids)
        parts, begin = [], 0
        for count in (7, 1, 1, 12, *[1] * 19):
            parts.append(network.logits(ids[:, begin : begin + count], cache=cache))
            begin += count
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.covers("INF-04: KV-cached decoding")
def test_cached_generation_equals_uncached(network):
    prompt = prompts(1)[0]
    got = list(generate(network, prompt, max_new_tokens=30, temperature=0))
    assert got == without_cache(network, prompt, 30)
    assert len(set(got)) > 1  # not merely one token over and over


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_every_row_gives_what_it_gives_alone(network, temperature):
    sampling = Sampling(temperature=temperature, top_k=0, top_p=0.95, seed=11)
    rows = prompts(5)
    together = Decoding(network, rows, sampling, max_new_tokens=12)
    list(together)
    for prompt, answer in zip(rows, together.new_ids, strict=True):
        alone = Decoding(network, [prompt], sampling, max_new_tokens=12)
        list(alone)
        assert alone.new_ids[0] == answer


def test_rows_that_stop_early_leave_the_others_alone(network):
    rows = prompts(4)
    full = [without_cache(network, prompt, 12) for prompt in rows]
    stop = full[0][3]
    decoding = Decoding(network, rows, GREEDY, max_new_tokens=12, stop_ids=[stop])
    list(decoding)
    for answer, reason, expected in zip(
        decoding.new_ids, decoding.reasons, full, strict=True
    ):
        cut = expected.index(stop) if stop in expected else 12
        assert answer == expected[:cut]
        assert reason == ("stop" if cut < 12 else "length")
    assert "stop" in decoding.reasons


def test_a_long_prompt_in_pieces_gives_the_same(network, monkeypatch):
    rows = prompts(3)
    whole = Decoding(network, rows, GREEDY, max_new_tokens=10)
    list(whole)
    monkeypatch.setattr(module, "PREFILL_COLUMNS", 4)
    pieces = Decoding(network, rows, GREEDY, max_new_tokens=10)
    list(pieces)
    assert pieces.new_ids == whole.new_ids


def test_full_attention_ends_at_the_context_limit():
    network = tiny()
    decoding = Decoding(network, prompts(2), GREEDY, max_new_tokens=500)
    list(decoding)
    assert decoding.reasons == ["context", "context"]
    assert [len(ids) for ids in decoding.new_ids] == [64 - 5, 64 - 1]


@pytest.mark.covers("MEM-13", "INF-04: sliding window")
def test_a_window_slides_past_the_trained_length():
    network = tiny(window_size=8, moe=MOE)
    prompt = prompts(1)[0]
    decoding = Decoding(network, [prompt], GREEDY, max_new_tokens=100)
    list(decoding)
    assert decoding.reasons == ["length"] and len(decoding.new_ids[0]) == 100
    assert decoding.new_ids[0] == without_cache(network, prompt, 100)


@pytest.mark.covers("MOD-02: 32 Q to 4 KV (8x smaller KV cache)")
def test_fewer_key_heads_keep_a_smaller_cache():
    kept = {}
    for heads in (32, 4):
        network = tiny(num_heads=32, num_kv_heads=heads, head_dim=4)
        cache = new_cache(network)
        with torch.inference_mode(), evaluating(network):
            network.logits(torch.tensor([prompts(1)[0]]), cache=cache)
        kept[heads] = cache.nbytes
    assert kept[32] == 8 * kept[4] > 0


def test_the_mode_of_the_network_is_left_as_it_was():
    network = tiny(dropout=0.5)
    network.train()
    first = list(generate(network, [1, 2], max_new_tokens=8, temperature=0))
    assert network.training
    assert first == list(generate(network, [1, 2], max_new_tokens=8, temperature=0))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("prompt", "count", "code"),
    [
        ([], 5, "E105"),
        ([1] * 64, 5, "E005"),
        ([61], 5, "E002"),
        ([-1], 5, "E002"),
        ([1], 0, "E005"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(prompt, count, code):
    with pytest.raises(LuminaError) as caught:
        next(generate(tiny(), prompt, max_new_tokens=count))
    assert caught.value.code == code


def test_generation_goes_on_from_a_cache_that_holds_the_beginning():
    network = tiny(num_kv_heads=2)
    prompt = prompts(3)[2]
    cache = new_cache(network)
    with torch.inference_mode():
        network.logits(torch.tensor([prompt[:10]]), cache=cache)
    decoding = Decoding(network, [prompt], GREEDY, max_new_tokens=9, cache=cache)
    list(decoding)
    assert decoding.new_ids[0] == without_cache(network, prompt, 9)
    assert cache.length == len(prompt) + 8  # the last token was never fed


def test_half_precision_generates():
    network = tiny(moe=MOE).bfloat16()
    network.backbone.compute_dtype = torch.bfloat16
    assert len(list(generate(network, [1, 2, 3], max_new_tokens=5, seed=0))) == 5
