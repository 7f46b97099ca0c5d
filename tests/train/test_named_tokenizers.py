"""A short training with each named tokenizer of which the vocabulary is at hand.

Llama 3's and Code Llama's own files need the hub and a licence. Code Llama's vocabulary
is that of Llama 2 with tokens for filling in; Llama 3 has a rank file as tiktoken has.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lumina.data.tokenizer import Tokenizer
from tiny_runs import Runs, story, write_conversations

MAKES = {
    "Qwen 2": "qwen2",
    "Mistral v1": "mistral/tokenizer.model.v1",
    "Mistral v3": "mistral/mistral_instruct_tokenizer_240323.model.v3",
    "Llama 2": "llamacpp_vocab/ggml-vocab-llama-spm.gguf",
    "DeepSeek-Coder": "llamacpp_vocab/ggml-vocab-deepseek-coder.gguf",
    "DeepSeek LLM": "llamacpp_vocab/ggml-vocab-deepseek-llm.gguf",
    "StarCoder": "llamacpp_vocab/ggml-vocab-starcoder.gguf",
    "Phi-3": "llamacpp_vocab/ggml-vocab-phi-3.gguf",
    "GPT-2": "gpt2/gpt2_tokenizer.json",
    "GPT-NeoX": "llamacpp_vocab/ggml-vocab-gpt-neox.gguf",
    "cl100k_base": "tiktoken/cl100k_base.tiktoken",
}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.covers("TOK-03: each with a basic training check")
@pytest.mark.thorough
@pytest.mark.parametrize("name", MAKES)
def test_a_model_learns_with_a_named_tokenizer(
    runs: Runs, shared_data: Path, name: str
) -> None:
    path = shared_data / "tokenizers" / MAKES[name]
    chats = write_conversations(runs.folder / "talk.jsonl")
    run = runs.train(
        train_data=(str(runs.data), str(chats)),
        tokenizer=str(path),
        tokenizer_vocab_size=None,
        eval_fraction=0.0,
        init_std=0.02,
        steps=4,
    )
    losses = run.column("loss")
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] - 0.2
    kept = Tokenizer.from_path(run.folder / "tokenizer")
    assert kept.has_chat
    assert losses[0] == pytest.approx(math.log(kept.vocab_size), rel=0.15)
    texts = [one for one in story().split("<|endoftext|>") if one.strip()]
    ids = kept.encode_batch(texts)
    assert ids == Tokenizer.from_path(path).encode_batch(texts)
    assert [kept.decode(one).strip() for one in ids] == [one.strip() for one in texts]
