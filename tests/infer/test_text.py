from __future__ import annotations

import pytest

from foreign_tokenizers import MAKES, foreign_tokenizer
from infer.networks import tiny
from lumina.data.tokenizer import Tokenizer
from lumina.infer import text as answering
from lumina.infer.sampling import Sampling
from lumina.infer.serving.request import Request
from lumina.infer.text import Answers, UntilStop, complete

WARM = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=5)


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_nothing_of_a_stop_string_comes_through(size):
    text = "a ENDI of b END. c"
    until, said = UntilStop(["END.", "STOP"]), []
    for start in range(0, len(text), size):
        said.append(until.push(text[start : start + size]))
    assert "".join(said) == "a ENDI of b " and until.stopped
    assert until.flush() == ""


def test_what_looked_like_a_stop_string_comes_in_the_end():
    until = UntilStop(["STOP"])
    assert until.push("say STO") == "say "
    assert until.push("NE and ST") == "STONE and "
    assert until.flush() == "ST" and not until.stopped


def test_the_earliest_stop_string_wins():
    assert UntilStop(["bc", "a"]).push("xabc") == "x"


def told(decode, answer):
    """What an answer says; half a character at the end of one cut off is left out."""
    whole = decode(answer.ids)
    return whole.removesuffix("\ufffd") if half_at_end(answer, whole) else whole


def half_at_end(answer, whole):
    return answer.reason == "length" and whole == answer.text + "\ufffd"


@pytest.mark.covers("INF-12")
def test_streamed_pieces_join_to_the_decoded_answer(tokenizer):
    network = tiny(tokenizer.vocab_size)
    prompt = tokenizer.prompt("the")
    most = 0
    for seed in range(5):
        sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=seed)
        answers = Answers(network, tokenizer, [prompt], sampling, max_new_tokens=40)
        pieces = [piece for _, piece in answers]
        [answer] = answers.completions
        assert "".join(pieces) == answer.text == told(tokenizer.decode, answer)
        assert all(pieces) and answer.reason in ("length", "stop")
        most = max(most, len(pieces))
    assert most > 10


@pytest.mark.covers("INF-02: batch generation")
def test_a_batch_gives_the_answers_of_its_prompts(tokenizer):
    network = tiny(tokenizer.vocab_size, num_kv_heads=2)
    texts = ["the quick", "", "a dog 日本語 and more of the same", "x"]
    together = complete(network, tokenizer, texts, WARM, max_new_tokens=20)
    alone = [
        complete(network, tokenizer, [text], WARM, max_new_tokens=20)[0]
        for text in texts
    ]
    pairs = complete(network, tokenizer, texts, WARM, max_new_tokens=20, batch_size=2)
    assert together == alone == pairs
    assert len({answer.text for answer in together}) == 4


def test_a_stop_string_ends_its_row_only(tokenizer):
    network = tiny(tokenizer.vocab_size)
    texts = ["the quick", "a dog"]
    free = complete(network, tokenizer, texts, WARM, max_new_tokens=30)
    stop = free[0].text[8:11]
    assert stop not in free[1].text
    cut = complete(network, tokenizer, texts, WARM, max_new_tokens=30, stop=[stop])
    assert cut[0].text == free[0].text[: free[0].text.index(stop)]
    assert cut[0].reason == "stop"
    assert cut[1] == free[1]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_is_what_it_adds_to_the_text_of_its_prompt(tmp_path, make, chat):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    mine = Tokenizer.from_path(foreign_tokenizer(make, tmp_path))
    mine = mine.with_chat() if chat else mine
    mine.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    turns = [{"role": "user", "content": "def foo"}]
    prompt = mine.chat_prompt(turns) if chat else mine.prompt("def foo")
    network = tiny(mine.vocab_size)
    spaces = 0
    for seed in range(12):
        warm = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=seed)
        answers = Answers(network, mine, [prompt], warm, max_new_tokens=6)
        streamed = "".join(piece for _, piece in answers)
        [answer] = answers.completions

        def after(ids, prompt=prompt):
            return theirs.decode([*prompt, *ids])[len(theirs.decode(prompt)) :]

        assert streamed == answer.text == told(after, answer)
        spaces += answer.text.startswith(" ")
    assert spaces > 0  # some answers began with a space, and kept it


def test_an_answer_to_an_empty_prompt_begins_like_a_text(tmp_path):
    mine = Tokenizer.from_path(foreign_tokenizer("prepend", tmp_path))
    text = "return it"
    assert mine.decode_after(mine.prompt(""), mine.encode(text)) == text


class Decided:
    """In place of `Decoding`: the tokens of one row, whatever the network."""

    ids: list[int] = []  # noqa: RUF012
    stop_ids: frozenset[int]

    def __init__(self, network, prompts, sampling, *, max_new_tokens, stop_ids, **_):
        self.new_ids, self.reasons = [[]], [""]
        self.most, self.stop_ids = max_new_tokens, stop_ids

    def __iter__(self):
        for token in self.ids:
            if token in self.stop_ids:
                self.reasons[0] = "stop"
                yield []
                return
            self.new_ids[0].append(token)
            if len(self.new_ids[0]) == self.most:
                self.reasons[0] = "length"
            yield [(0, token)]
            if self.reasons[0]:
                return


@pytest.mark.covers("INF-12")
@pytest.mark.parametrize(
    ("data", "ends", "text"),
    [
        (b"ab\xe2\x82", False, "ab"),  # cut off: nobody said that it ends there
        (b"ab\xe2\x82", True, "ab\ufffd"),  # the model did
        (b"a\xffb\xe2", False, "a\ufffdb"),
        (b"a\xc3\xa9", False, "a\xe9"),
    ],
)
def test_every_door_says_the_same_of_half_a_character(
    tokenizer, monkeypatch, data, ends, text
):
    single = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    ids = [single[bytes([byte])] for byte in data]
    decided = [*ids, *sorted(tokenizer.stop_ids)[:1]]
    most = len(ids) + ends
    monkeypatch.setattr(answering, "Decoding", Decided)
    monkeypatch.setattr(Decided, "ids", decided)

    answers = Answers(None, tokenizer, [[]], WARM, max_new_tokens=most)
    pieces = [piece for _, piece in answers]
    [answer] = answers.completions
    assert answer.reason == ("stop" if ends else "length")
    assert "".join(pieces) == answer.text == text

    [batch] = complete(None, tokenizer, [""], WARM, max_new_tokens=most)
    assert batch.text == text

    served = Request([], WARM, most, (), tokenizer)
    for token in decided[:most]:
        served.take(token)
    said = []
    while not said or not said[-1].last:
        said.append(served.said.get_nowait())
    assert "".join(one.text for one in said) == text
    assert said[-1].reason == answer.reason
