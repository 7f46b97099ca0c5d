"""Formats and places of cached keys and values, in caches and in whole models."""

from __future__ import annotations

import json

import pytest
import torch

from infer.networks import MOE, prompts, tiny, write_run
from infer.test_cache import expected, in_chunks, qkv
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.infer.cache import KVCache
from lumina.infer.generate import Decoding, evaluating, new_cache
from lumina.infer.kv.kept import Keeping
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.model.spec import HrmSpec, ModSpec, MorSpec
from lumina.ops.attention.beyond import Beyond
from lumina.ops.kv_formats.table import find_format
from lumina.plan.kv_cache import cached_layers, token_bytes

KINDS = {
    "grouped": {"num_kv_heads": 2, "moe": MOE},
    "latent": {"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 6},
    "window": {"window_size": 6},
    "depths": {"mod": ModSpec(layers=(1,)), "window_size": 9},
    "recursions": {"mor": MorSpec(3), "num_layers": 4},
    "shared keys": {"mor": MorSpec(3, kv_sharing=True), "num_layers": 4},
    "reasoner": {
        "hrm": HrmSpec(
            mode="language_model", h_layers=1, l_layers=1, halt_max_steps=3,
            loss="softmax",
        ),
        "num_layers": 2,
    },
}  # fmt: skip


def keeping(name="auto", on_host=False):
    return Keeping(find_format(name), on_host)


def rounded(name, x):
    coding = find_format(name)
    return coding.decode(coding.encode(x), x.shape[-1], x.dtype)


@pytest.mark.covers("MEM-14: fp16", "MEM-14: and lower")
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("name", ["fp16", "fp8", "int8", "int4"])
def test_attention_sees_the_rounded_keys_however_they_came(name, window):
    q, k, v = qkv(2, 23)
    wanted = expected(q, rounded(name, k + 1), rounded(name, v - 1), window)
    for on_host in (False, True):
        for chunks in ([23], [7, 1, 1, 9, 1, 4]):
            cache = KVCache(
                2, window=window, capacity=4, keeping=keeping(name, on_host)
            )
            got = in_chunks(cache, q, k, v, chunks)
            torch.testing.assert_close(got, wanted)


def test_rounded_keys_on_the_host_survive_rewinding_and_leaving_rows():
    q, k, v = qkv(3, 20)
    cache = KVCache(3, keeping=keeping("int4", on_host=True))
    in_chunks(cache, q, k, v, [12])
    assert cache.rewind(9)
    cache.keep_rows(torch.tensor([2, 0]))
    q, k, v = (t[[2, 0]] for t in (q, k, v))
    rest = in_chunks(cache, q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], [4, 1, 6])
    wanted = expected(q, rounded("int4", k + 1), rounded("int4", v - 1), 0)
    torch.testing.assert_close(rest, wanted[:, :, 9:])


def logits(network, cache, ids, chunks):
    parts = []
    with torch.inference_mode(), evaluating(network):
        for chunk in ids.split(chunks, dim=1):
            parts.append(network.logits(chunk, cache=cache))
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_reads_an_offloaded_cache_exactly(kind):
    """And a rounded one nearly, within the bytes that are said beforehand."""
    network = tiny(**KINDS[kind])
    torch.manual_seed(0)
    ids, chunks = torch.randint(0, 61, (2, 24)), [7, 1, 10, *[1] * 6]
    window = network.spec.window_size
    found = {}
    for name, on_host in (("auto", False), ("auto", True), ("int8", False)):
        cache = KVCache(2, window=window, keeping=keeping(name, on_host), capacity=24)
        found[name, on_host] = logits(network, cache, ids, chunks)
        kept = window or 24
        if "mod" not in KINDS[kind] and "mor" not in KINDS[kind]:
            bound = token_bytes(network.spec, name, torch.float32)
            assert cache.nbytes <= 2 * kept * bound
    plain = found["auto", False]
    assert torch.equal(found["auto", True], plain)
    apart = (found["int8", False] - plain).abs().mean() / plain.std()
    assert 0 < apart < 0.05


def test_layers_that_leave_keys_are_counted_by_kind():
    counts = {kind: cached_layers(tiny(**KINDS[kind]).spec) for kind in KINDS}
    assert counts == {
        "grouped": 3, "latent": 3, "window": 3, "depths": 3,
        "recursions": 4 + 2 * 2, "shared keys": 4, "reasoner": 3 * 2 * (2 * 1 + 1),
    }  # fmt: skip


def test_bytes_held_are_the_bytes_said():
    network = tiny(num_kv_heads=2)
    for name in ("auto", "fp16", "int8", "int4"):
        settings = CacheSettings(name)
        cache = new_cache(network, 3, capacity=64, settings=settings)
        logits(network, cache, torch.randint(0, 61, (3, 9)), [9])
        assert cache.nbytes == settings.needed(network, 3, 64)
    assert "3 rows of 64 tokens (int4); float32 would need" in settings.words(
        network, 3, 64
    )


def test_decoding_uses_the_settings_and_8_bits_choose_the_same_tokens():
    network = tiny(num_kv_heads=2)
    answers = {}
    for name in ("auto", "fp32", "int8"):
        decoding = Decoding(
            network, prompts(4), Sampling(temperature=0), max_new_tokens=10,
            settings=CacheSettings(name),
        )  # fmt: skip
        list(decoding)
        answers[name] = decoding.new_ids
        held = decoding._cache.nbytes
    assert answers["auto"] == answers["fp32"] == answers["int8"]
    assert held == 4 * 28 * 3 * 2 * 2 * (8 + 4)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    network = tiny(tokenizer.vocab_size, num_kv_heads=2)
    folder = tmp_path_factory.mktemp("runs") / "run"
    return str(write_run(folder, {7: network}, tokenizer))


def test_generate_and_chat_say_the_bytes_before(run, capsys):
    words = ["generate", run, "--prompt", "the quick", "--max-new-tokens", "5"]
    words += ["--temperature", "0", "--json"]
    assert main(words) == 0
    plain = capsys.readouterr()
    assert "keys and values" not in plain.err
    assert main([*words, "--kv-cache-dtype", "fp16"]) == 0
    half = capsys.readouterr()
    assert json.loads(half.out)["tokens"] == json.loads(plain.out)["tokens"]
    assert "keys and values: at most " in half.err and "(fp16); float32" in half.err
    assert main([*words, "--kv-cache-offload"]) == 2
    assert "E002" in (said := capsys.readouterr().err) and "on the CPU" in said


def test_evaluate_states_what_the_rounding_costs(run, capsys, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog " * 3)
    words = ["evaluate", run, "--data", str(text)]
    costs = {}
    for name in ("int8", "int4"):
        assert main([*words, "--json", "--kv-cache-dtype", name]) == 0
        costs[name] = json.loads(capsys.readouterr().out)["cache"]
    assert 0 < costs["int8"]["kl"] < costs["int4"]["kl"]
    assert costs["int8"]["plain_loss"] == costs["int4"]["plain_loss"]
    assert costs["int8"]["tokens"] > 20 and costs["int8"]["same_choice"] > 0.9
    window = ["--kv-window", "4", "--kv-sinks", "1"]
    assert main([*words, "--json", *window]) == 0
    assert json.loads(capsys.readouterr().out)["cache"]["kl"] > costs["int4"]["kl"]
    assert main([*words, "--kv-cache-dtype", "int4"]) == 0
    assert "with this cache  perplexity" in capsys.readouterr().out


def test_a_model_that_keeps_no_keys_refuses_a_format():
    network = tiny(**KINDS["reasoner"])
    puzzles = tiny(hrm=HrmSpec(), num_layers=8).spec
    assert cached_layers(puzzles) == 0
    network.spec = puzzles
    with pytest.raises(LuminaError, match="E002"):
        CacheSettings("int8").check(network)


def sinking(q, k, v, window, sinks):
    """One row, one pass, no cache."""
    query = torch.arange(q.shape[2])[:, None]
    key = torch.arange(q.shape[2])
    seen = (key <= query) & ((query - key < window) | (key < sinks))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)


@pytest.mark.covers("MEM-13", "INF-04: sliding window")
@pytest.mark.parametrize("chunks", [[23], [10] + [1] * 13, [2, 1, 9, 1, 10]])
@pytest.mark.parametrize(("window", "sinks"), [(5, 3), (1, 1), (9, 12), (30, 2)])
def test_a_window_and_sinks_of_padded_rows_in_bounded_memory(window, sinks, chunks):
    q, k, v = qkv(3, 23)
    padding = torch.tensor([0, 4, 9])
    cache = KVCache(3, window=window, beyond=Beyond(sinks), padding=padding)
    got = in_chunks(cache, q, k, v, chunks)
    assert got.isfinite().all()
    for row, pad in enumerate(padding.tolist()):
        one = slice(row, row + 1)
        parts = (q[one, :, pad:], k[one, :, pad:] + 1, v[one, :, pad:] - 1)
        torch.testing.assert_close(got[one, :, pad:], sinking(*parts, window, sinks))
    assert cache.nbytes == 3 * 2 * 2 * 2 * 8 * 4 * (window + sinks + 1)
    cache.keep_rows(torch.tensor([2]))
    assert cache.nbytes == 2 * 2 * 2 * 8 * 4 * (window + sinks + 1)


def test_a_window_in_the_cache_is_that_of_a_model_with_one():
    """The same weights with a window and sinks of their own see the same."""
    plain, own = tiny(), tiny(window_size=6, attention_sinks=2)
    own.load_state_dict(plain.state_dict())
    ids = torch.randint(0, 61, (1, 40), generator=torch.Generator().manual_seed(1))
    settings = CacheSettings(window=6, sinks=2)
    cache = new_cache(plain, capacity=40, settings=settings)
    found = logits(plain, cache, ids, [9, *[1] * 21, 10])
    with torch.inference_mode(), evaluating(own):
        torch.testing.assert_close(found, own.logits(ids), atol=1e-5, rtol=1e-5)
    assert cache.nbytes == settings.needed(plain, 1, 40)
    assert "the newest 6 and the first 2" in settings.words(plain, 1, 40)
    with torch.inference_mode(), evaluating(plain):
        assert not torch.allclose(found, plain.logits(ids), atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, CacheSettings(sinks=4)),
        ({}, CacheSettings(paged=True, window=8, sinks=4)),
        ({"window_size": 6}, CacheSettings(window=4)),
        (KINDS["reasoner"], CacheSettings(window=4)),
        (KINDS["depths"], CacheSettings(window=4)),
    ],
)
def test_windows_that_cannot_be_are_refused_by_name(changes, settings):
    with pytest.raises(LuminaError, match="E002"):
        new_cache(tiny(**changes), settings=settings)
