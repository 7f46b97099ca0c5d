"""Rows of several tasks: how often whose come, and what a step is told of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign_tokenizers import foreign_tokenizer
from lumina.batch import IGNORE
from lumina.config import Config
from lumina.data.store import StoreWriter, TokenStore
from lumina.data.stream import StepBatches
from lumina.data.task_stream import (
    TaskStream,
    eval_task_batches,
    task_sequence,
)
from lumina.data.tasks import TaskStores, prepare_tasks
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

WIDTH = 16
DOCUMENTS = {"code": 30, "prose": 12, "talk": 5}
"""Documents of each task; the tokens of a task are in its own thousand."""


@pytest.fixture
def store(tmp_path: Path) -> TaskStores:
    stores = {}
    for number, (name, count) in enumerate(DOCUMENTS.items(), start=1):
        folder = tmp_path / name
        folder.mkdir()
        writer = StoreWriter(folder, 70000, masked=name == "talk")
        for d in range(count):
            ids = np.arange(5 + d * 3 % 17) + number * 1000 + d * 20
            mask = np.arange(len(ids)) % 3 > 0
            writer.add(ids, mask, text_bytes=1, loss_bytes=1, last=True)
        writer.close()
        stores[name] = TokenStore.open(folder)
    return TaskStores(stores)


def stream(store: TaskStores, strategy: str, **changes: float) -> TaskStream:
    sequence = task_sequence(store, seq_length=WIDTH, seed=3, strategy=strategy)
    values = {"global_batch_size": 8, "epochs": 1} | changes
    return TaskStream(store, sequence, seq_length=WIDTH, **values)  # type: ignore[arg-type]


def steps(one: TaskStream, micro: int = 4, **share: int) -> list[StepBatches]:
    cursor, made = one.start, []
    while (step := one.step(cursor, micro_batch_size=micro, **share)) is not None:
        made.append(step)
        cursor = json.loads(json.dumps(step.cursor))
    return made


def rows_seen(made: list[StepBatches]) -> Counter[tuple[int, tuple[int, ...]]]:
    """(task by `task_rows`, inputs) of every row that holds tokens."""
    seen: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for step in made:
        for batch in step.micro_batches:
            assert batch.task_rows is not None
            tasks = [t for t, n in enumerate(batch.task_rows) for _ in range(n)]
            assert len(tasks) == len(batch.input_ids)
            for task, ids, documents in zip(
                tasks, batch.input_ids, batch.document_ids, strict=True
            ):
                if (documents >= 0).any():
                    seen[task, tuple(ids[documents >= 0].tolist())] += 1
    return seen


def test_proportional_takes_every_row_of_every_task_once(store: TaskStores) -> None:
    one = stream(store, "proportional")
    made = steps(one)
    seen = rows_seen(made)
    assert set(seen.values()) == {1} and len(seen) == one.order.rows_per_epoch
    for task, ids in seen:
        assert {i // 1000 for i in ids} == {task + 1}
    tokens = Counter[int]()
    for task, ids in seen:
        tokens[task] += len(ids)
    assert tokens[0] > tokens[1] > tokens[2]
    assert sum(step.tokens for step in made) == tokens.total()


def test_round_robin_gives_tasks_equal_turns(store: TaskStores) -> None:
    made = steps(stream(store, "round_robin", global_batch_size=6), micro=6)
    turns = Counter[int]()
    for step in made[:-1]:
        (batch,) = step.micro_batches
        assert batch.task_rows == (2, 2, 2)
    for (task, _), count in rows_seen(made).items():
        turns[task] += count
    assert max(turns.values()) - min(turns.values()) == 0
    # The largest task was seen once, the others again and again.
    seen = rows_seen(made)
    assert {count for (task, _), count in seen.items() if task == 0} == {1}
    assert min(count for (task, _), count in seen.items() if task == 2) > 1


@pytest.mark.parametrize("strategy", ["proportional", "round_robin"])
def test_the_rows_of_a_step_are_the_same_on_any_split(
    store: TaskStores, strategy: str
) -> None:
    one = stream(store, strategy, epochs=1.5)
    whole = steps(one, micro=8)
    halves = [steps(one, micro=2, rank=r, data_ranks=2) for r in range(2)]
    resumed = stream(store, strategy, epochs=1.5)
    for index, step in enumerate(whole):
        parts = [half[index] for half in halves]
        assert rows_seen([step]) == rows_seen(parts[:1]) + rows_seen(parts[1:])
        again = resumed.step(
            whole[index - 1].cursor if index else one.start, micro_batch_size=8
        )
        assert again is not None and again.row_ids == step.row_ids
        for part in [*parts, again]:
            assert part.task_loss_tokens == step.task_loss_tokens
            assert part.loss_tokens == step.loss_tokens == sum(step.task_loss_tokens)


@pytest.mark.parametrize("strategy", ["proportional", "round_robin"])
def test_counts_and_boundaries_are_those_of_the_batch(
    store: TaskStores, strategy: str
) -> None:
    made = steps(stream(store, strategy), micro=4)
    lengths = {len(b.cu_seqlens) for step in made for b in step.micro_batches}
    assert len(lengths) == 1  # a fixed shape, whoever's rows they are
    for step in made:
        counted = torch.zeros(3, dtype=torch.int64)
        for batch in step.micro_batches:
            assert batch.task_rows is not None
            parts = (batch.labels != IGNORE).split(list(batch.task_rows))
            counted += torch.stack([part.sum() for part in parts])
            edges = batch.cu_seqlens[batch.cu_seqlens < batch.input_ids.numel()]
            assert edges.diff().min() > 0 if len(edges) > 1 else True
            documents = batch.document_ids.flatten()
            rows = torch.arange(len(documents)) // WIDTH
            changed = (documents.diff() != 0) | (rows.diff() != 0)
            assert edges.tolist() == [0, *(changed.nonzero().flatten() + 1).tolist()]
        assert counted.tolist() == list(step.task_loss_tokens)
        assert sum(counted) == step.loss_tokens


def test_held_out_batches_hold_one_task_each(store: TaskStores) -> None:
    names = tuple(store.stores)
    some = TaskStores({name: store.stores[name] for name in ("talk", "code")})
    batches = list(eval_task_batches(some, names, WIDTH, 4, 1000))
    assert {b.task_rows for b in batches} == {(4, 0, 0), (0, 0, 4)}
    tokens = sum(int((b.document_ids >= 0).sum()) for b in batches)
    assert tokens == sum(
        len(one.tokens) - len(one) for one in some.stores.values()
    )  # all of them
    assert len(list(eval_task_batches(some, names, WIDTH, 4, 1))) == 2
    shared = [
        list(eval_task_batches(some, names, WIDTH, 4, 1000, rank=r, data_ranks=2))
        for r in range(2)
    ]
    assert len(shared[0]) == len(shared[1])


def texts(folder: Path) -> tuple[str, ...]:
    for name, words in (("a", "A cow"), ("b", "x =")):
        documents = [f"{words} {n}" for n in range(40)]
        (folder / f"{name}.txt").write_text("<|endoftext|>".join(documents))
    (folder / "more.txt").write_text("A pig again.\n")
    return (f"farm={folder}/a.txt", f"code={folder}/b.txt", f"farm={folder}/more.txt")


def test_tasks_share_a_tokenizer_and_hold_out_their_own(tmp_path: Path) -> None:
    config = Config(tasks=texts(tmp_path), tokenizer_vocab_size=300)
    prepared = prepare_tasks(config)
    assert list(prepared.train.stores) == ["farm", "code"]
    assert prepared.eval is not None and list(prepared.eval.stores) == ["farm", "code"]
    read = "".join(
        prepared.tokenizer.decode(store.document(d).tolist())
        for store in prepared.train.stores.values()
        for d in range(len(store))
    )
    assert "A cow" in read and "x = " in read
    again = prepare_tasks(config)
    assert again.train.fingerprint == prepared.train.fingerprint
    # Held-out files of one task; the other still holds out a share of its own.
    given = prepare_tasks(
        config.replace(task_eval_data=(f"farm={tmp_path}/more.txt",)),
        tokenizer=prepared.tokenizer,
    )
    assert given.eval is not None
    assert len(given.eval.stores["farm"]) == 1
    assert given.train.stores["code"].fingerprint == (
        prepared.train.stores["code"].fingerprint
    )
    assert len(given.train.stores["farm"]) > len(prepared.train.stores["farm"])


@pytest.mark.parametrize("order", [("talk", "farm"), ("farm", "talk")])
def test_one_task_of_conversations_gives_the_model_chat_markers(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    texts(tmp_path)
    turns = [("user", "What is it?"), ("assistant", "A cow.")]
    line = json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})
    (tmp_path / "talk.jsonl").write_text(f"{line}\n" * 20)
    paths = {"talk": "talk.jsonl", "farm": "a.txt"}
    tasks = tuple(f"{name}={tmp_path}/{paths[name]}" for name in order)
    theirs = str(foreign_tokenizer("bytes", tmp_path / "theirs"))
    assert not Tokenizer.from_path(theirs).has_chat
    prepared = prepare_tasks(Config(tasks=tasks, tokenizer=theirs))
    assert prepared.tokenizer.has_chat


@pytest.mark.parametrize(
    ("code", "told", "options"),
    [
        ("E005", "NAME=PATH", {"tasks": ("a.txt", "b=b.txt")}),
        ("E005", "NAME=PATH", {"tasks": ("a.b=a.txt", "b=b.txt")}),
        ("E005", "NAME=PATH", {"tasks": ("a=", "b=b.txt")}),
        ("E002", "--train-data", {"tasks": ("a=a.txt", "a=b.txt")}),
        ("E002", "leave train_data out", {"train_data": ("c.txt",)}),
        ("E002", "leave eval_data out", {"eval_data": ("c.txt",)}),
        ("E002", "--no-tie-embeddings", {"tie_embeddings": True}),
        ("E002", "in the order a, b", {"task_weights": (1.0,)}),
        ("E005", "at least 0", {"task_weights": (1.0, -1.0)}),
        ("E005", "not all of them 0", {"task_weights": (0.0, 0.0)}),
        ("E002", "tasks are a, b", {"task_eval_data": ("c=c.txt",)}),
        ("E002", "leave tasks out, or use_hrm", {"use_hrm": True}),
        ("E002", "leave tasks out, or expert_id", {"expert_id": "x", "init_from": "r"}),
    ],
)
def test_nonsense_is_refused(code: str, told: str, options: dict[str, object]) -> None:
    with pytest.raises(LuminaError) as caught:
        Config(**({"tasks": ("a=a.txt", "b=b.txt")} | options))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert told in caught.value.hint
