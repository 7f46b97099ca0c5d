from __future__ import annotations

import json

import pytest
import torch

from infer.networks import MOE, prompts, tiny
from infer.test_cache import expected, in_chunks, qkv
from infer.test_kv_cache import KINDS, keeping, logits, rounded
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.infer.cache import KVCache
from lumina.infer.chat import ChatSession
from lumina.infer.generate import Decoding, new_cache
from lumina.infer.kv.paged_cache import PagedCache
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.pages import Pool
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling

GREEDY = Sampling(temperature=0)
PAGED = CacheSettings(paged=True, block=4)
SINKS = {"window_size": 4, "attention_sinks": 2, "attention_dilation": 3}


def pool(block=4, name="auto", limit=None, on_host=False):
    return Pool(keeping(name, on_host), block, limit)


@pytest.mark.covers("MEM-12: block table", "INF-04: paged cache")
@pytest.mark.parametrize("window", [0, 1, 5, 16])
@pytest.mark.parametrize(
    "chunks", [[23], [1] * 23, [7, 1, 1, 9, 1, 4], [3, 20], [4, 4, 8, 7]]
)
def test_chunks_in_blocks_attend_as_one_pass(window, chunks):
    q, k, v = qkv(2, 23)
    cache = PagedCache(pool(), 2, window=window)
    got = in_chunks(cache, q, k, v, chunks)
    torch.testing.assert_close(got, expected(q, k + 1, v - 1, window))
    if window:  # what no query will see again has gone back to the pool
        assert cache.pool.in_use <= 2 * (-(-(window + chunks[-1]) // 4) + 1)
    else:
        assert cache.pool.in_use == 2 * 6


@pytest.mark.parametrize(("name", "on_host"), [("int4", False), ("auto", True)])
def test_blocks_hold_every_format_and_lie_on_the_host(name, on_host):
    q, k, v = qkv(2, 20)
    cache = PagedCache(pool(8, name, on_host=on_host), 2)
    got = in_chunks(cache, q, k, v, [9, 1, 1, 9])
    wanted = expected(q, rounded(name, k + 1), rounded(name, v - 1), 0)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("kind", ["grouped", "latent", "window", "reasoner"])
def test_one_row_in_blocks_is_exactly_the_plain_cache(kind):
    network = tiny(**KINDS[kind])
    torch.manual_seed(0)
    ids, chunks = torch.randint(0, 61, (1, 30)), [7, 1, 10, *[1] * 12]
    window = network.spec.window_size
    plain = logits(network, KVCache(1, window=window), ids, chunks)
    paged = logits(network, PagedCache(pool(), window=window), ids, chunks)
    if window:  # the ring gives its keys in another order
        torch.testing.assert_close(paged, plain, atol=1e-5, rtol=1e-5)
    else:
        assert torch.equal(paged, plain)


@pytest.mark.parametrize("changes", [{"moe": MOE}, {"window_size": 6}, SINKS])
@pytest.mark.parametrize("temperature", [0, 1.0])
def test_rows_of_different_length_answer_as_with_a_plain_cache(changes, temperature):
    network = tiny(**changes)
    sampling = Sampling(temperature=temperature, top_k=0, seed=5)
    stop = []
    answers = []
    for settings in (None, PAGED):
        decoding = Decoding(
            network, prompts(5), sampling, max_new_tokens=14,
            stop_ids=stop, settings=settings,
        )  # fmt: skip
        list(decoding)
        answers.append((decoding.new_ids, decoding.reasons))
    assert answers[0] == answers[1]


@pytest.mark.covers("MEM-12: free list")
def test_rows_that_end_give_their_blocks_to_the_others():
    network = tiny()
    first = Decoding(network, prompts(3), GREEDY, max_new_tokens=20, settings=PAGED)
    list(first)
    stop = first.new_ids[2][2]  # the longest prompt ends early
    decoding = Decoding(
        network, prompts(3), GREEDY, max_new_tokens=20, stop_ids=[stop], settings=PAGED
    )
    list(decoding)
    held = decoding._cache.pool
    plain = Decoding(network, prompts(3), GREEDY, max_new_tokens=20, stop_ids=[stop])
    list(plain)
    assert decoding.new_ids == plain.new_ids and "stop" in decoding.reasons
    assert held.nbytes < plain._cache.nbytes * 3 // len(plain._rows)
    assert held.blocks <= 3 * PAGED.blocks(17 + 20) == held.limit
    assert held.nbytes <= PAGED.needed(network, 3, 17 + 20)


def test_prompts_that_begin_alike_share_blocks_and_are_read_once(monkeypatch):
    network = tiny()
    head = prompts(3)[2]  # 17 tokens: four blocks of 4
    rows = [[*head, 1, 2], [*head, 3], [5, *head], head[:16]]
    read = []
    inner = network.logits
    monkeypatch.setattr(
        network, "logits", lambda ids, **k: read.append(ids.numel()) or inner(ids, **k)
    )
    decoding = Decoding(network, rows, GREEDY, max_new_tokens=9, settings=PAGED)
    decoding.step()
    # Of the last, the final block is read anew: its output is needed.
    assert read == [19, 18 - 16, 18, 16 - 12]
    assert decoding._cache.pool.in_use == 5 + 1 + 5 + 1
    list(decoding)
    for row, answer in zip(rows, decoding.new_ids, strict=True):
        alone = Decoding(network, [row], GREEDY, max_new_tokens=9)
        list(alone)
        assert alone.new_ids[0] == answer


def test_a_block_that_was_used_again_is_not_found_by_what_it_held():
    network = tiny()
    kept = pool(limit=6)
    one = prompts(3)[2]
    other = [(token * 7 + 5) % 61 for token in one]
    reused = []

    def scores(prompt):
        cache = PagedCache(kept)
        pieces = cache.read_prompts([prompt], 99, torch.device("cpu"))
        for ids, _ in pieces:
            reused.append(len(prompt) - ids.shape[1])
            found = logits(network, cache, ids, [ids.shape[1]])
        cache.active[0].end()
        return found[0, -1]

    for prompt in (one, one, other, one, other, other, one):
        alone = logits(network, KVCache(1), torch.tensor([prompt]), [17])[0, -1]
        torch.testing.assert_close(scores(prompt), alone, atol=1e-5, rtol=1e-5)
        assert kept.blocks <= 6 and kept.in_use == 0
    assert max(reused) == 16


def test_writing_into_a_shared_block_copies_it_first():
    q, k, v = qkv(1, 12)
    held = pool()
    first, second = PagedCache(held), PagedCache(held)
    ids = torch.arange(12)[None]
    first.positions(ids[:, :8])
    in_chunks(first, q, k, v, [8])
    assert second.active[0].begin([*range(8), 50]) == 0  # not settled yet
    first.active[0].settle()
    assert second.active[0].begin([*range(8), 50]) == 8 and held.in_use == 2
    assert second.rewind(6)
    rest = in_chunks(second, q[:, :, 6:], 9 * k[:, :, 6:], v[:, :, 6:], [3])
    assert rest.isfinite().all() and held.in_use == 2 + 2
    again = in_chunks(first, q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], [4])
    torch.testing.assert_close(again, expected(q, k + 1, v - 1, 0)[:, :, 8:])


def test_a_known_block_that_is_written_again_is_not_found_any_more():
    q, k, v = qkv(1, 8)
    held = pool()
    cache = PagedCache(held)
    cache.positions(torch.arange(8)[None])
    in_chunks(cache, q, k, v, [8])
    cache.active[0].settle()
    assert cache.rewind(6)
    cache.positions(torch.tensor([[50, 51]]))
    in_chunks(cache, q[:, :, 6:], k[:, :, 6:], v[:, :, 6:], [2])
    cache.active[0].end()
    assert PagedCache(held).active[0].begin([*range(9)]) == 4
    assert PagedCache(held).active[0].begin([*range(6), 50, 51, 8]) == 8


def test_a_full_pool_says_so_and_room_is_counted_beforehand():
    q, k, v = qkv(1, 12)
    cache = PagedCache(pool(limit=2))
    [row] = cache.active
    assert row.needed(8) == 2 and row.needed(9) == 3 and cache.pool.available == 2
    in_chunks(cache, q, k, v, [8])
    with pytest.raises(MemoryError, match="all 2 blocks"):
        in_chunks(cache, q[:, :, 8:], k[:, :, 8:], v[:, :, 8:], [1])


def test_a_seat_is_taken_down_to_the_last_block_and_no_further():
    """Blocks that have to stay free besides are asked for where they may run out."""
    held = Pool(keeping("auto", False), 4, 5, spare=True)
    seats = PagedSeats(held, 2, 12, (0, None), torch.device("cpu"))
    assert seats.take(0, [*range(8)], spare=3) == 0  # 2 blocks, and 3 stay free
    assert held.available == 3
    assert seats.take(1, [*range(50, 58)], spare=2) is None
    assert held.available == 3, "what was refused holds nothing"
    assert seats.take(1, [*range(50, 62)]) == 0 and held.available == 0


def test_chat_goes_on_from_its_blocks(tokenizer):
    network = tiny(tokenizer.vocab_size, seq_length=256)
    said = []
    for settings in (None, CacheSettings(paged=True, block=16)):
        session = ChatSession(
            network, tokenizer, sampling=GREEDY, max_new_tokens=9, settings=settings
        )
        texts = ["".join(session.say(text)) for text in ("the quick", "a dog", "fox")]
        said.append((texts, session.reused))
    assert said[0] == said[1] and said[1][1] > 16


@pytest.mark.parametrize("kind", ["depths", "recursions"])
def test_models_whose_tokens_choose_layers_refuse_blocks(kind):
    with pytest.raises(LuminaError, match="takes no paged cache"):
        new_cache(tiny(**KINDS[kind]), settings=PAGED)


@pytest.mark.covers("MEM-12: 256-token blocks")
def test_the_commands_take_blocks_of_256_tokens(tmp_path, tokenizer, capsys):
    from infer.networks import write_run

    network = tiny(tokenizer.vocab_size, seq_length=512)
    run = str(write_run(tmp_path / "run", {7: network}, tokenizer))
    words = ["generate", run, "--prompt", "the quick", "a", "--max-new-tokens", "6"]
    words += ["--temperature", "0", "--json"]
    assert main(words) == 0
    plain = capsys.readouterr().out
    assert main([*words, "--kv-cache-paged"]) == 0
    paged = capsys.readouterr()
    assert paged.out == plain
    # 2 rows of a block, 3 layers, 4 heads, a key and a value of 8 numbers of 4 bytes.
    assert "at most 384.0 KiB" in paged.err and "in blocks of 256" in paged.err
    assert main([*words, "--kv-block-size", "16"]) == 2
    assert main([*words, "--kv-cache-paged", "--kv-block-size", "0"]) == 2
    said = capsys.readouterr().err
    assert "add --kv-cache-paged" in said and "E005" in said
    assert json.loads(plain.splitlines()[0])["tokens"]
