"""Blocks whose memory is a state: the cache holds it, the trainer trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from infer.networks import tiny
from lumina.batch import Batch
from lumina.infer.cache import KVCache
from lumina.infer.chat import ChatSession
from lumina.infer.generate import Decoding
from lumina.infer.sampling import Sampling
from lumina.model.registry import load_plugins
from lumina.model.spec import PartsSpec
from tiny_runs import Runs

FILE = str(Path(__file__).parents[1] / "recurrent_parts.py")
LINEAR = str(Path(__file__).parents[2] / "examples" / "gated_linear_attention.py")
OPTIONS = {
    "mamba": {"states": 4, "expand": 2, "width": 4},
    "gated_linear": {"chunk": 8, "gate_rank": 4, "gate_scale": 16.0},
}
BLOCKS = ("mamba", "rwkv")
LAYERS = {
    "mamba": ("mamba",) * 3,
    "rwkv": ("rwkv",) * 3,
    "both, and attention": ("mamba", "rwkv", ""),
}


def network(layers: str, vocab_size: int = 61, **changes):
    load_plugins([FILE])
    parts = PartsSpec(block=LAYERS[layers], options=OPTIONS, plugins=(FILE,))
    return tiny(vocab_size, parts=parts, **changes).eval()


@pytest.mark.parametrize("layers", LAYERS)
def test_cached_logits_are_the_whole_rows(layers: str) -> None:
    model = network(layers)
    ids = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(3))
    cache = KVCache(2)
    parts = [model.logits(part, cache=cache) for part in ids.split([9, 1, 1, 13], 1)]
    whole = model.logits(ids)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", LAYERS)
def test_rows_of_different_length_side_by_side_are_as_alone(layers: str) -> None:
    model = network(layers)
    generator = torch.Generator().manual_seed(5)
    prompts = [
        torch.randint(0, 61, (n,), generator=generator).tolist() for n in (2, 11)
    ]
    warm = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=7)

    def answers(*rows: list[int]) -> list[list[int]]:
        decoding = Decoding(model, rows, warm, max_new_tokens=9)
        for _ in decoding:
            pass
        return decoding.new_ids

    together = answers(*prompts)
    assert together[0] == answers(prompts[0])[0]
    first = model.logits(torch.tensor([prompts[1]]))[0, -1]
    cache = KVCache(2, padding=torch.tensor([9, 0]))
    padded = torch.tensor([[0] * 9 + prompts[0], prompts[1]])
    beside = model.logits(padded, cache=cache)
    torch.testing.assert_close(beside[1, -1], first, rtol=1e-4, atol=1e-4)
    alone = model.logits(torch.tensor([prompts[0]]))[0]
    torch.testing.assert_close(beside[0, 9:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", LAYERS)
def test_documents_of_a_row_do_not_see_each_other(layers: str) -> None:
    model = network(layers)
    ids = torch.randint(0, 61, (1, 20), generator=torch.Generator().manual_seed(1))
    places = torch.arange(20)[None]
    packed = Batch(
        input_ids=ids,
        labels=ids,
        position_ids=torch.where(places < 7, places, places - 7),
        document_ids=(places >= 7).long(),
        cu_seqlens=torch.tensor([0, 7, 20], dtype=torch.int32),
        max_seqlen=16,
    )
    together = model.backbone(packed).hidden
    pieces = (ids[:, :7], ids[:, 7:])
    alone = [model.backbone(Batch.from_rows(piece)).hidden for piece in pieces]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.covers("MOD-37")
@pytest.mark.parametrize("block", BLOCKS)
def test_mamba_and_rwkv_are_hosted(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planned, trained, stopped, resumed to the same bits, and generated with."""
    import lumina
    from lumina.infer.generate import generate

    runs = Runs(tmp_path, monkeypatch)
    model = {"plugins": (FILE,), "block_type": (block,)}
    whole = runs.train(steps=12, **model)
    assert whole.rows[-1]["loss"] < whole.rows[0]["loss"] - 0.5
    part = runs.train(steps=7, lr_scheduler="constant", **model)
    then = lumina.Trainer(
        lumina.Config(resume=str(part.folder), plugins=(FILE,), steps=12)
    ).train()
    assert then.steps == 12 and then.run_dir == part.folder
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, part.tensors[name]), name
    network, tokenizer = lumina.load(part.folder, device="cpu")
    ids = tokenizer.encode("The cat")
    made = list(generate(network, ids, max_new_tokens=6, temperature=0.0))
    for index, token in enumerate(made):
        scores = network.logits(torch.tensor([ids + made[:index]]))[0, -1]
        assert int(scores.argmax()) == token


def test_turns_of_a_chat_read_again_what_a_state_cannot_take_back(tokenizer) -> None:
    load_plugins([LINEAR])
    parts = PartsSpec(attention=("gated_linear", "", "gated_linear"), options=OPTIONS)
    model = tiny(tokenizer.vocab_size, seq_length=256, parts=parts)
    warm = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=4)
    chat, forgetful = (
        ChatSession(model, tokenizer, sampling=warm, max_new_tokens=12)
        for _ in range(2)
    )
    for text in ("the quick brown fox", "the lazy", "and the dog"):
        answer = "".join(chat.say(text))
        forgetful._forget_cache()
        assert "".join(forgetful.say(text)) == answer
