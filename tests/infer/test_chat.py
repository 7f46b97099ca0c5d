from __future__ import annotations

import pytest
import tokenizers

from infer.networks import MOE, tiny
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.chat import ChatSession
from lumina.infer.sampling import Sampling

WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=4)
QUESTIONS = ["the quick brown fox", "the lazy", "jumps over it", "and the dog"]


def session(network, tokenizer, **options) -> ChatSession:
    return ChatSession(
        network, tokenizer, **{"sampling": WARM, "max_new_tokens": 12, **options}
    )


def say(chat: ChatSession, text: str) -> str:
    return "".join(chat.say(text))


@pytest.fixture(scope="module")
def network(tokenizer):
    return tiny(tokenizer.vocab_size, seq_length=256, num_kv_heads=2, moe=MOE)


@pytest.mark.covers("INF-01: chat")
@pytest.mark.parametrize("window", [0, 8])
def test_turns_with_the_cache_say_what_they_say_without(tokenizer, window):
    network = tiny(tokenizer.vocab_size, seq_length=256, window_size=window, moe=MOE)
    chat = session(network, tokenizer, system_prompt="be a dog")
    forgetful = session(network, tokenizer, system_prompt="be a dog")
    read = 0
    for text in QUESTIONS:
        answer = say(chat, text)
        assert chat.reused == read  # all that was read before is read no more
        forgetful._forget_cache()
        assert say(forgetful, text) == answer and forgetful.reused == 0
        assert chat.last.ids == forgetful.last.ids
        read = chat._cache.length
    assert [m["role"] for m in chat.messages] == ["user", "assistant"] * 4
    assert [m["content"] for m in chat.messages[::2]] == QUESTIONS


@pytest.mark.covers("INF-01: --system-prompt")
def test_the_model_reads_the_system_prompt_and_the_history(network, tokenizer):
    chat = session(network, tokenizer, system_prompt="be a dog")
    first = say(chat, "the fox")
    say(chat, "jumps")
    read = tokenizer.decode(chat._known)
    history = (
        "<|endoftext|><|system|>be a dog<|end|><|user|>the fox<|end|>"
        f"<|assistant|>{first}<|end|><|user|>jumps<|end|><|assistant|>"
    )
    assert read.startswith(history)


def test_reset_forgets_everything_but_the_system_prompt(network, tokenizer):
    chat = session(network, tokenizer, system_prompt="be a dog")
    first = say(chat, "the fox")
    say(chat, "jumps")
    chat.reset()
    assert chat.messages == [] and say(chat, "the fox") == first


def test_a_long_conversation_drops_its_oldest_turns(tokenizer):
    network = tiny(tokenizer.vocab_size, seq_length=64)
    chat = session(network, tokenizer, system_prompt="be a dog")
    dropped = 0
    for turn in range(8):
        say(chat, f"the quick brown fox {turn}")
        dropped += chat.dropped
        assert chat._cache.length <= 64
    assert dropped == 16 - len(chat.messages) > 0
    assert chat.messages[0]["role"] == "user"
    assert tokenizer.decode(chat._known).count("<|system|>be a dog") == 1


def test_a_question_that_cannot_fit_is_refused_and_not_remembered(tokenizer):
    network = tiny(tokenizer.vocab_size, seq_length=32)
    chat = session(network, tokenizer)
    answer = say(chat, "the fox")
    with pytest.raises(LuminaError) as caught:
        say(chat, "the dog " * 40)
    assert caught.value.code == "E005"
    chat.reset()
    assert say(chat, "the fox") == answer


def test_an_answer_broken_off_is_remembered_as_far_as_it_came(network, tokenizer):
    chat = session(network, tokenizer, max_new_tokens=40)
    whole = say(chat, QUESTIONS[1])
    assert len(chat.last.ids) > 6
    chat.reset()
    asked = iter([False, False, True])
    said = "".join(chat.say(QUESTIONS[1], stopped=lambda: next(asked)))
    assert len(chat.last.ids) == 3
    assert whole.startswith(said) and chat.last.reason == ""
    assert chat.messages[-1] == {"role": "assistant", "content": said}
    chat.reset()
    stream = chat.say(QUESTIONS[1])
    piece = next(stream)
    stream.close()
    assert chat.messages[-1]["content"] == piece
    assert chat._cache.length > 0
    say(chat, "and on")
    assert chat.reused > 0


def test_a_stop_string_ends_an_answer(network, tokenizer):
    chat = session(network, tokenizer, max_new_tokens=40)
    whole = say(chat, QUESTIONS[1])
    stop = whole[4:6]
    short = session(network, tokenizer, max_new_tokens=40, stop=[stop])
    assert say(short, QUESTIONS[1]) == whole[: whole.index(stop)]
    say(short, "and then")  # goes on from the shortened answer
    assert short.messages[1]["content"] == whole[: whole.index(stop)]


def test_a_tokenizer_without_turns_is_refused(network):
    model = tokenizers.models.WordLevel({"a": 0, "<|endoftext|>": 1}, unk_token="a")
    with pytest.raises(LuminaError) as caught:
        ChatSession(network, Tokenizer(tokenizers.Tokenizer(model)))
    assert caught.value.code == "E102"
