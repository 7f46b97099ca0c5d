"""Conversations longer than a row keep their question, and lose no answer."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chat_templates import folder_with
from data.test_chat_template import NO_SYSTEM, TEMPLATES
from lumina.batch import IGNORE
from lumina.config import Config
from lumina.data.chat_markers import END_OF_TURN, MARKERS
from lumina.data.long_conversations import Long, Piece, divide, long_in_words
from lumina.data.packed_stream import BatchStream
from lumina.data.packing import pack
from lumina.data.prepare import Prepared, fit_rows, prepare
from lumina.data.records import Message
from lumina.data.tasks import fit_task_rows, prepare_tasks
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

WORDS = ["fox", "dog", "wood", "lake", "the", "over", "jumps", "quick", "été", "11"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([" ".join(WORDS)] * 20, 300).with_chat()


def said(draw: random.Random, most: int) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))


def conversation(draw: random.Random) -> list[Message]:
    """A system turn or none; questions and answers of very different lengths."""
    turns: list[Message] = []
    if draw.random() < 0.5:
        turns.append({"role": "system", "content": said(draw, 12)})
    for _ in range(draw.randint(1, 4)):
        turns.append({"role": "user", "content": said(draw, draw.choice([4, 30]))})
        turns.append(
            {"role": "assistant", "content": said(draw, draw.choice([4, 40, 120]))}
        )
    if draw.random() < 0.2:
        turns.append({"role": "user", "content": said(draw, 6)})
    return turns


class ByHand:
    """A conversation's tokens, written down turn by turn."""

    def __init__(self, tokenizer: Tokenizer, turns: Sequence[Message]) -> None:
        self.roles = [turn["role"] for turn in turns]
        self.begin = tokenizer.begin
        token = tokenizer.backend.token_to_id
        self.turns = [
            [
                token(MARKERS[turn["role"]]),
                *tokenizer.encode(turn["content"]),
                token(END_OF_TURN),
            ]
            for turn in turns
        ]
        self.ids = list(self.begin)
        self.mask = [False] * len(self.begin)
        self.turn_of = [-1] * len(self.begin)
        for number, ids in enumerate(self.turns):
            taught = self.roles[number] == "assistant"
            self.ids += ids
            self.mask += [False, *([taught] * (len(ids) - 1))]
            self.turn_of += [number] * len(ids)

    def context(self, turn: int, row: int) -> list[int]:
        """What comes before an answer that does not stand in the first piece."""
        question = next(n for n in range(turn, -1, -1) if self.roles[n] == "user")
        asked = [*self.turns[question], self.turns[turn][0]]
        system = self.turns[0] if self.roles[0] == "system" else []
        room = row + 1 - row // 4
        if len(self.begin + system + asked) <= room:
            return self.begin + system + asked
        if len(self.begin + asked) <= room:
            return self.begin + asked
        return self.begin + asked[len(self.begin + asked) - room :]


@pytest.mark.parametrize("row", [16, 32, 64])
def test_pieces_are_what_one_would_write_by_hand(
    tokenizer: Tokenizer, row: int
) -> None:
    draw = random.Random(row)
    pieces_seen = divided_seen = 0
    for _ in range(300):
        turns = conversation(draw)
        hand = ByHand(tokenizer, turns)
        whole = tokenizer.lay_out(turns)
        assert (whole.ids, whole.mask) == (hand.ids, hand.mask)
        if len(hand.ids) <= row + 1:
            continue
        pieces, told = divide(
            turns, whole, row, "split", tokenizer.lay_out, tokenizer.begin
        )
        taught: list[int] = []
        for number, piece in enumerate(pieces):
            new = list(range(piece.begin, piece.end))
            size = len(piece.context) + len(new)
            assert size <= row + 1
            first_words = hand.mask.index(True)
            if number == 0 and first_words <= row + 1 - row // 4:
                assert (piece.context, piece.begin) == ([], 0)
            else:
                assert hand.mask[piece.begin]
                turn = hand.turn_of[piece.begin]
                assert piece.context == hand.context(turn, row)
            taught += [n for n in new if hand.mask[n]]
            pieces_seen += 1
            if piece.end == len(hand.ids):
                continue
            # No piece ends before it has to.
            assert hand.mask[piece.end - 1]
            turn = hand.turn_of[piece.end - 1]
            inside = hand.mask[piece.end] and hand.turn_of[piece.end] == turn
            if inside:
                divided_seen += 1
                assert size == row + 1
                begins = hand.turn_of.index(turn) + 1
                alone = len(hand.context(turn, row)) + len(hand.turns[turn]) - 1
                earlier = any(hand.mask[piece.begin : begins])
                assert not earlier or alone > row + 1
            else:
                following = [n for n in range(turn + 1, len(turns))
                             if hand.roles[n] == "assistant"]  # fmt: skip
                if following:
                    last = len(hand.ids) - 1 - hand.turn_of[::-1].index(following[0])
                    assert len(piece.context) + last + 1 - piece.begin > row + 1
        # Every token of every answer is taught once, in order.
        assert taught == [n for n, bears in enumerate(hand.mask) if bears]
        assert told.pieces == len(pieces) and told.without_labels == 0
    assert pieces_seen > 300 and divided_seen > 50


@pytest.mark.parametrize("row", [16, 32])
def test_with_loss_on_all_every_token_is_taught_once(
    tokenizer: Tokenizer, row: int
) -> None:
    draw = random.Random(row)
    for _ in range(200):
        turns = conversation(draw)

        def lay_out(some: Sequence[Message]) -> Any:
            return tokenizer.lay_out(some, loss_on="all")

        whole = lay_out(turns)
        if len(whole.ids) <= row + 1:
            continue
        pieces, _ = divide(turns, whole, row, "split", lay_out, tokenizer.begin)
        assert [n for p in pieces for n in range(p.begin, p.end)] == list(
            range(len(whole.ids))
        )
        assert all(len(p.context) + p.end - p.begin <= row + 1 for p in pieces)
        assert all(p.context for p in pieces[1:])


def test_turns_without_loss_are_not_taught(tokenizer: Tokenizer) -> None:
    turns: list[Message] = [
        {"role": "user", "content": "the fox " * 3},
        {"role": "assistant", "content": "wood lake " * 30, "train": False},
        {"role": "user", "content": "the dog"},
        {"role": "assistant", "content": "over jumps " * 30},
    ]
    whole = tokenizer.lay_out(turns)
    pieces, _ = divide(turns, whole, 32, "split", tokenizer.lay_out, tokenizer.begin)
    asked = tokenizer.chat_prompt(turns[2:3])
    assert {tuple(piece.context) for piece in pieces} == {tuple(asked)}
    taught = [n for p in pieces for n in range(p.begin, p.end) if whole.mask[n]]
    assert taught == [n for n, bears in enumerate(whole.mask) if bears]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("row", [48, 96])
def test_a_models_own_template_asks_before_every_piece(
    name: str, row: int, tmp_path: Path
) -> None:
    mine = Tokenizer.from_path(folder_with(TEMPLATES[name][0], tmp_path))
    turns: list[Message] = [
        {"role": "user", "content": "fox?"},
        {"role": "assistant", "content": "the quick dog " * 5},
        {"role": "user", "content": "and été?"},
        {"role": "assistant", "content": "over the fox, jumps. " * 30},
    ]
    if name not in NO_SYSTEM:
        turns.insert(0, {"role": "system", "content": "be brief"})
    whole = mine.lay_out(turns)
    assert (whole.ids, whole.mask) == mine.encode_chat(turns)
    pieces, _ = divide(turns, whole, row, "split", mine.lay_out, mine.begin)
    system = turns[:1] if turns[0]["role"] == "system" else []
    asked = [*system, turns[-2]]
    full, bare = mine.chat_prompt(asked), mine.chat_prompt(turns[-2:-1])
    room = row + 1 - row // 4
    assert len(bare) <= room
    wanted = full if len(full) <= room else bare
    last_words = whole.spans[-1].words
    behind = [piece for piece in pieces if piece.begin > last_words]
    assert behind and all(piece.context == wanted for piece in behind)
    taught = [n for p in pieces for n in range(p.begin, p.end) if whole.mask[n]]
    assert taught == [n for n, bears in enumerate(whole.mask) if bears]
    assert all(len(p.context) + p.end - p.begin <= row + 1 for p in pieces)


def test_a_template_that_moves_turns_is_refused_by_name(tmp_path: Path) -> None:
    """It writes the system's words in the last question, so pieces cannot be cut."""
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] "
        "{% if loop.index0 == messages|length - 2 and messages[0].role == 'system' %}"
        "{{ messages[0].content }}: {% endif %}{{ m.content }} [/INST]"
        "{% elif m.role == 'assistant' %}{{ m.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    )
    theirs = folder_with(template, tmp_path / "theirs")
    turns: list[Message] = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "fox?"},
        {"role": "assistant", "content": "dog"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "the fox " * 40},
    ]
    path = written(tmp_path, [turns])
    config = config_of(path, tokenizer=str(theirs), tokenizer_vocab_size=None)
    with pytest.raises(LuminaError, match="cannot be split") as caught:
        fitted(config, 64)
    assert caught.value.code == "E108"
    assert "once and in order" in str(caught.value)
    assert f"{path}, line 1" in str(caught.value)
    assert "--long-conversations truncate" in str(caught.value)
    _, after, _ = fitted(config.replace(long_conversations="truncate"), 64)
    [(ids, _)] = documents(after)
    assert ids == after.tokenizer.encode_chat(turns)[0][:65]


def test_what_is_left_out_of_a_split_conversation_is_told(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "the fox " * 60}
    turns: list[Any] = [
        {"role": "system", "content": "quick dog " * 20},
        asked,
        {"role": "assistant", "content": "over the lake " * 20},
        {"role": "user", "content": "dog"},
    ]
    short = [asked | {"content": "fox"}, turns[2] | {"content": "lake"}]
    before, after, (event,) = fitted(config_of(written(tmp_path, [turns, short])), 32)
    whole = len(documents(before)[0][0])
    message = event["message"]
    assert event["severity"] == "warning"
    assert "1 conversation is longer than a row of 32 tokens" in message
    assert "the beginning of 1 question is left out" in message
    assert "1 turn stands without the system's" in message
    assert f"{event['tokens_lost']} tokens without loss are left out" in message
    assert 0 < event["tokens_lost"] < whole
    assert after.train.loss_tokens == before.train.loss_tokens


# Of files.


def written(folder: Path, conversations: Sequence[Sequence[Message]]) -> Path:
    path = folder / "chats.jsonl"
    lines = [json.dumps({"messages": turns}) for turns in conversations]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def conversations() -> list[list[Message]]:
    draw = random.Random(0)
    return [conversation(draw) for _ in range(120)]


@pytest.fixture(scope="module")
def chats(
    tmp_path_factory: pytest.TempPathFactory, conversations: list[list[Message]]
) -> Path:
    return written(tmp_path_factory.mktemp("long"), conversations)


def config_of(path: Path, **options: Any) -> Config:
    settings = {"eval_fraction": 0.0, "tokenizer_vocab_size": 300} | options
    return Config(train_data=(str(path),), **settings)


def documents(prepared: Prepared) -> list[tuple[list[int], list[bool]]]:
    """Ids and mask of every document to learn from; its first token is no label."""
    store = prepared.train
    found = []
    for number in range(len(store)):
        first, end = store.starts[number], store.starts[number + 1]
        mask = store.bears_loss(np.arange(first + 1, end)).tolist()
        found.append((store.document(number).tolist(), [False, *mask]))
    return found


def fitted(config: Config, row: int) -> tuple[Prepared, Prepared, list[dict[str, Any]]]:
    told: list[dict[str, Any]] = []
    before = prepare(config)
    after = fit_rows(before, config, row, on_event=lambda **event: told.append(event))
    return before, after, told


@pytest.mark.parametrize(
    ("threads", "loss_on"), [(0, "assistant"), (2, "assistant"), (2, "all")]
)
def test_split_data_holds_every_answer_once(
    chats: Path, threads: int, loss_on: str
) -> None:
    row = 32
    config = config_of(chats, num_workers=threads, loss_on=loss_on)
    before, after, (event,) = fitted(config, row)
    tokenizer = after.tokenizer

    def lay_out(some: Sequence[Message]) -> Any:
        return tokenizer.lay_out(some, loss_on=loss_on)

    wanted: list[tuple[list[int], list[bool]]] = []
    for (ids, mask), line in zip(
        documents(before), chats.read_text().splitlines(), strict=True
    ):
        turns = json.loads(line)["messages"]
        pieces = [Piece([], 0, len(ids))]
        if len(ids) > row + 1:
            pieces, _ = divide(
                turns, lay_out(turns), row, "split", lay_out, tokenizer.begin
            )
        wanted += [
            (
                p.context + ids[p.begin : p.end],
                [False] * len(p.context) + mask[p.begin : p.end],
            )
            for p in pieces
        ]
    assert documents(after) == wanted
    assert after.train.loss_tokens == before.train.loss_tokens
    assert after.train.loss_bytes == before.train.loss_bytes
    assert after.train.bytes == before.train.bytes
    told = event
    assert event["kind"] == "data_long_conversations"
    complete = not (event["questions_shortened"] or event["without_system"])
    assert event["severity"] == ("info" if complete else "warning")
    long = sum(len(ids) > row + 1 for ids, _ in documents(before))
    assert told["conversations"] == long > 50
    assert (
        f"{long} conversations are longer than a row of 32 tokens" in event["message"]
    )
    # No row is without a label, and none of its documents is cut.
    stream = BatchStream(
        after.train, seq_length=row, global_batch_size=1, seed=0, epochs=1
    )
    assert stream.rows_without_labels[0] == 0
    assert len(pack(after.train, row).starts) == len(after.train)


@pytest.mark.parametrize("name", ["markers", "llama3", "qwen3", "mistral"])
def test_the_labels_of_the_batches_are_all_answers(
    chats: Path, tmp_path: Path, name: str, conversations: list[list[Message]]
) -> None:
    config = config_of(chats)
    if name != "markers":  # with the template of a model's folder
        # Templates of the kind want turns by turns, and some of them no system.
        talks = [turns for turns in conversations if turns[-1]["role"] == "assistant"]
        if name in NO_SYSTEM:
            talks = [[t for t in turns if t["role"] != "system"] for turns in talks]
        theirs = folder_with(TEMPLATES[name][0], tmp_path / "theirs")
        config = config_of(
            written(tmp_path, talks), tokenizer=str(theirs), tokenizer_vocab_size=None
        )
    _, after, _ = fitted(config, 32)
    stream = BatchStream(
        after.train, seq_length=32, global_batch_size=4, seed=0, epochs=1
    )
    cursor, labels = stream.start, []
    while (step := stream.step(cursor, micro_batch_size=4)) is not None:
        cursor = step.cursor
        [batch] = step.micro_batches
        labels += batch.labels[batch.labels != IGNORE].tolist()
    wanted = [
        i for ids, mask in documents(prepare(config))
        for i, bears in zip(ids, mask, strict=True) if bears
    ]  # fmt: skip
    assert sorted(labels) == sorted(wanted)


def test_truncate_keeps_the_beginning_and_counts_the_rest(chats: Path) -> None:
    row = 32
    before, after, (event,) = fitted(
        config_of(chats, long_conversations="truncate"), row
    )
    wanted = []
    lost = empty = 0
    for ids, mask in documents(before):
        kept = ids[: row + 1], mask[: row + 1]
        if any(kept[1]):
            wanted.append(kept)
            lost += len(ids) - len(kept[0])
        else:
            empty += 1
            lost += len(ids)
    assert documents(after) == wanted
    assert empty > 0
    assert event["severity"] == "warning"
    assert (event["tokens_lost"], event["without_labels"]) == (lost, empty)
    assert (
        f"{lost:,} of" in event["message"] and f"{empty} left out" in event["message"]
    )
    assert after.stats["long_conversations"]["mode"] == "truncate"
    assert after.train.loss_bytes < before.train.loss_bytes
    said = [
        len(after.tokenizer.decode(
            [i for i, bears in zip(ids, mask, strict=True) if bears], skip_special=True
        ).encode())
        for ids, mask in wanted
    ]  # fmt: skip
    assert after.train.loss_bytes <= sum(said)


def test_drop_leaves_long_ones_out_and_counts_them(chats: Path) -> None:
    row = 32
    before, after, (event,) = fitted(config_of(chats, long_conversations="drop"), row)
    short = [one for one in documents(before) if len(one[0]) <= row + 1]
    long = [one for one in documents(before) if len(one[0]) > row + 1]
    assert documents(after) == short
    assert event["severity"] == "warning"
    assert event["conversations"] == len(long)
    assert event["tokens_lost"] == sum(len(ids) for ids, _ in long)
    assert "left out" in event["message"]


def test_cut_is_what_earlier_versions_did_and_says_so(chats: Path) -> None:
    before, after, (event,) = fitted(config_of(chats, long_conversations="cut"), 32)
    assert after is before
    assert (
        event["severity"] == "warning" and "without their question" in event["message"]
    )


def test_nothing_left_to_learn_is_refused(tmp_path: Path) -> None:
    turns: list[Message] = [
        {"role": "user", "content": "fox " * 60},
        {"role": "assistant", "content": "dog"},
    ]
    path = written(tmp_path, [turns] * 3)
    for mode in ("drop", "truncate"):
        with pytest.raises(LuminaError, match=f"--long-conversations is {mode}") as e:
            fitted(config_of(path, long_conversations=mode), 16)
        assert e.value.code == "E105" and "split" in str(e.value)


def test_conversations_that_fit_are_left_alone(chats: Path) -> None:
    before, after, told = fitted(config_of(chats), 4096)
    assert after is before and told == []
    assert after.stats["long_conversations"] is None


def test_held_out_conversations_are_split_too(chats: Path) -> None:
    config = config_of(chats, eval_fraction=0.3)
    before, after, _ = fitted(config, 32)
    assert before.eval is not None and after.eval is not None
    assert after.eval.loss_tokens == before.eval.loss_tokens
    assert np.diff(after.eval.starts).max() <= 33
    # All held-out ones are longer: then nothing is held out, and that is told.
    draw = random.Random(1)
    short: list[Message] = [
        {"role": "user", "content": "fox"},
        {"role": "assistant", "content": "dog"},
    ]
    folder = chats.parent / "held"
    folder.mkdir()
    long_only = written(folder, [conversation(draw) + conversation(draw)] * 2)
    (folder / "short.jsonl").write_text(json.dumps({"messages": short}) + "\n")
    config = config_of(
        folder / "short.jsonl",
        eval_data=(str(long_only),),
        long_conversations="drop",
    )
    _, after, told = fitted(config, 16)
    assert after.eval is None
    assert [event["kind"] for event in told] == [
        "data_long_conversations",
        "data_no_eval",
    ]


def test_texts_beside_conversations_stay_as_they_are(
    chats: Path, tmp_path: Path
) -> None:
    text = "the quick fox " * 200
    (tmp_path / "a.txt").write_text(text)
    config = config_of(chats).replace(train_data=(str(chats), str(tmp_path / "a.txt")))
    before, after, _ = fitted(config, 32)
    longest = max(documents(before), key=lambda one: len(one[0]))
    assert longest in documents(after)


def test_tasks_are_split_one_by_one(chats: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the quick fox jumps over the dog. " * 50)
    config = Config(
        tasks=(f"talk={chats}", f"text={tmp_path / 'a.txt'}"),
        eval_fraction=0.0,
        tokenizer_vocab_size=300,
    )
    before = prepare_tasks(config)
    told: list[dict[str, Any]] = []
    after = fit_task_rows(before, 32, on_event=lambda **event: told.append(event))
    assert [event["kind"] for event in told] == ["data_long_conversations"]
    assert after.train.stores["text"] is before.train.stores["text"]
    talk = after.train.stores["talk"]
    assert np.diff(talk.starts).max() <= 33
    assert talk.loss_tokens == before.train.stores["talk"].loss_tokens
    assert after.stats["long_conversations"]["conversations"] > 50


def test_counts_add_up() -> None:
    assert Long(1, 2, 3, 4, 5, 6, 7) + Long(1, 1, 1, 1, 1, 1, 1) == Long(
        2, 3, 4, 5, 6, 7, 8
    )


def test_what_became_of_them_is_told_with_every_count() -> None:
    none = dict.fromkeys(
        ("without_labels", "questions_shortened", "without_system", "tokens_lost"), 0
    )
    told = {"conversations": 2, "pieces": 5, "tokens": 90, "row": 32}
    split = none | told | {"mode": "split"}
    assert long_in_words(split) == (
        "2 conversations are longer than a row of 32 tokens: split into 5 pieces, each "
        "with its question; no answer is lost"
    )
    more = split | {"conversations": 1, "questions_shortened": 1, "tokens_lost": 7}
    words = long_in_words(more)
    assert words.startswith("1 conversation is longer") and "of 1 question is" in words
    assert words.endswith("7 tokens without loss are left out")
    cut = none | told | {"mode": "truncate", "tokens_lost": 7, "without_labels": 1}
    assert "7 of 90 tokens lost; 1 left out, because" in long_in_words(cut)
    drop = none | told | {"mode": "drop", "tokens_lost": 90}
    assert long_in_words(drop).endswith("drop), 90 tokens in all")
