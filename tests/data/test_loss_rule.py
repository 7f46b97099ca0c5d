"""Which turns bear loss and how much each weighs, up to the batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina import ConfigPresets
from lumina.batch import IGNORE
from lumina.data.loss_rule import LossRule, loss_of
from lumina.data.packed_stream import BatchStream, eval_batches
from lumina.data.packing import pack
from lumina.data.prepare import fit_rows, prepare
from lumina.data.records import Message
from lumina.data.store import StoreWriter, TokenStore
from lumina.data.task_stream import TaskStream, task_sequence
from lumina.data.tasks import TaskStores
from lumina.errors import LuminaError

TURNS: list[Any] = [
    {"role": "system", "content": "sss"},
    {"role": "user", "content": "uone"},
    {"role": "assistant", "content": "aone"},
    {"role": "user", "content": "utwo"},
    {"role": "assistant", "content": "atwo"},
    {"role": "user", "content": "uthree"},
    {"role": "assistant", "content": "athree"},
]


def weights(rule: LossRule, turns: list[Any] = TURNS) -> list[float]:
    return [float(loss_of(m, rule.base)) for m in rule.applied(turns)]


@pytest.mark.covers("DAT-14: assistant tokens weighted", "DAT-15")
@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (LossRule(), [0, 0, 1, 0, 1, 0, 1]),
        (LossRule("all"), [1] * 7),
        (LossRule("last"), [0, 0, 0, 0, 0, 0, 1]),
        (LossRule("user,system"), [1, 1, 0, 1, 0, 1, 0]),
        (
            LossRule("assistant", (("assistant", 2.0), ("user", 0.1))),
            [0, 0.1, 2, 0.1, 2, 0.1, 2],
        ),
        (LossRule("all", (("user", 0.0),)), [1, 0, 1, 0, 1, 0, 1]),
        (LossRule("assistant", (), (0.25, 0.5)), [0, 0, 0.25, 0, 0.5, 0, 0.5]),
        (
            LossRule("all", (("user", 0.5),), (2.0, 1.0)),
            [2, 1, 2, 0.5, 1, 0.5, 1],
        ),
        (LossRule("assistant", (), (0.0, 1.0)), [0, 0, 0, 0, 1, 0, 1]),
    ],
)
def test_a_rule_decides_what_each_turn_weighs(
    rule: LossRule, expected: list[float]
) -> None:
    assert weights(rule) == pytest.approx(expected)
    assert rule.weighted == any(weight not in (0, 1) for weight in expected)
    # What a turn says of itself comes first, and multiplies.
    own = [dict(turn) for turn in TURNS]
    own[2]["train"] = False
    own[3]["train"] = True
    own[4]["weight"] = 3.0
    found = weights(rule, own)
    assert found[2] == 0 and found[4] == pytest.approx(3 * expected[4])
    assert (found[3] > 0) == (not rule.depths or rule.depths[-1] > 0)
    assert TURNS[2].keys() == {"role", "content"}


@pytest.mark.parametrize(
    ("leaves", "code", "says"),
    [
        ({"loss_on": "asistant"}, "E005", "assistant, user, system, tool"),
        ({"loss_on": "user,user"}, "E005", "each once"),
        ({"role_weights": ["user"]}, "E005", "ROLE=NUMBER"),
        ({"role_weights": ["user=-1"]}, "E005", "0 or more"),
        ({"role_weights": ["user=1,user=2"]}, "E005", "each role once"),
        ({"role_weights": ["assistant=0"]}, "E002", "weight above 0"),
        ({"turn_weights": [0.0]}, "E002", "above 0"),
        ({"turn_weights": [-1.0, 1.0]}, "E005", "0 or more"),
        ({"loss_on": "last", "role_weights": ["user=1"]}, "E002", "last answer"),
    ],
)
def test_weights_that_mean_nothing_are_refused(
    leaves: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(LuminaError) as refused:
        ConfigPresets.debug().replace(train_data=["x.jsonl"], **leaves)
    assert refused.value.code == code
    assert says in refused.value.message + refused.value.hint


def chats(folder: Path, turns: list[Message]) -> str:
    path = folder / "chat.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * 3)
    return str(path)


def test_weights_reach_the_labels_of_a_batch_and_not_an_evaluation(
    tmp_path: Path,
) -> None:
    config = ConfigPresets.debug().replace(
        train_data=[chats(tmp_path, TURNS)],
        eval_fraction=0.0,
        role_weights=["assistant=2,user=0.5"],
        turn_weights=[1.0, 0.25],
    )
    prepared = prepare(config)
    store, tokenizer = prepared.train, prepared.tokenizer
    stream = BatchStream(store, seq_length=64, global_batch_size=2, seed=0)
    step = stream.step(stream.start, micro_batch_size=2)
    assert step is not None
    [batch] = step.micro_batches
    assert batch.loss_weights is not None
    wanted = {"uone": 0.5, "aone": 2.0, "utwo": 0.125, "atwo": 0.5}
    wanted |= {"uthree": 0.125, "athree": 0.5, "sss": 0.0}
    ids = batch.input_ids.flatten().tolist()
    labels = batch.labels.flatten().tolist()
    found = batch.loss_weights.flatten().tolist()
    for words, weight in wanted.items():
        piece = tokenizer.encode_contents([words])[0]
        [first, *_] = [n for n in range(len(ids)) if ids[n : n + len(piece)] == piece]
        # The label of a word stands at the token before it; the mark of the turn's
        # end weighs the same.
        for at in range(first - 1, first + len(piece)):
            assert (labels[at] != IGNORE) == (weight > 0), words
            assert found[at] == weight, words
    assert step.loss_weight == pytest.approx(sum(found))
    assert step.facts["loss_weight"] == step.loss_weight != step.loss_tokens
    for one in eval_batches(store, 64, 2):
        assert one.loss_weights is None


def test_without_weights_nothing_is_kept_and_nothing_added(tmp_path: Path) -> None:
    path = chats(tmp_path, [*TURNS[1:3]])
    config = ConfigPresets.debug().replace(train_data=[path], eval_fraction=0.0)
    store = prepare(config).train
    assert not store.weighted
    assert not [f for f in store.folder.iterdir() if "weight" in f.name]
    stream = BatchStream(store, seq_length=32, global_batch_size=2, seed=0)
    step = stream.step(stream.start, micro_batch_size=2)
    assert step is not None and step.loss_weight is None and not step.facts
    assert step.micro_batches[0].loss_weights is None
    one = config.replace(role_weights=["assistant=1"], turn_weights=[1.0])
    assert prepare(one).train.fingerprint == store.fingerprint
    # The same file with weights is another store, and the cache knows.
    heavy = prepare(config.replace(role_weights=["assistant=2"])).train
    assert heavy.weighted and heavy.fingerprint != store.fingerprint


def test_pieces_of_a_long_conversation_keep_the_weights(tmp_path: Path) -> None:
    long = [dict(turn) for turn in TURNS]
    long[2]["content"] = "one two three " * 30
    long[4] |= {"content": "four five six " * 40, "weight": 4}
    path = chats(tmp_path, long)  # type: ignore[arg-type]
    config = ConfigPresets.debug().replace(
        train_data=[path], eval_fraction=0.0, turn_weights=[0.5, 1.0]
    )
    whole = prepare(config)
    pieces = fit_rows(whole, config, 48)
    assert len(pieces.train) > len(whole.train)
    totals = []
    for store in (whole.train, pieces.train):
        everywhere = np.arange(len(store.tokens))
        bears = store.bears_loss(everywhere)
        found = store.loss_weights(everywhere)[bears]
        totals.append(sorted(found.tolist()))
    assert totals[0] == totals[1] and set(totals[0]) == {0.5, 1.0, 4.0}


def test_tasks_of_which_one_is_weighted_are_weighted_together(tmp_path: Path) -> None:
    stores = {}
    for name, more in (("plain", {}), ("heavy", {"weight": 3})):
        (tmp_path / name).mkdir()
        path = chats(tmp_path / name, [TURNS[1], {**TURNS[2], **more}])
        config = ConfigPresets.debug().replace(
            train_data=[path], eval_fraction=0.0, tokenizer_vocab_size=290
        )
        stores[name] = prepare(config).train
    both = TaskStores(stores)
    sequence = task_sequence(both, seq_length=16, seed=0, strategy="proportional")
    stream = TaskStream(both, sequence, seq_length=16, global_batch_size=4, epochs=1)
    step = stream.step(stream.start, micro_batch_size=4)
    assert step is not None
    labels = [store.loss_tokens for store in stores.values()]
    assert step.task_loss_tokens == (labels[0], 3 * labels[1])
    assert step.loss_weight == step.loss_divisor == labels[0] + 3 * labels[1]
    [batch] = step.micro_batches
    assert float(batch.loss_weights.sum()) == step.loss_weight  # type: ignore[union-attr]


PARTS = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0]), min_size=1, max_size=12),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(PARTS)
def test_every_label_keeps_its_weight_in_the_store_and_in_rows(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[list[float], bool]]
) -> None:
    folder = tmp_path_factory.mktemp("store")
    writer = StoreWriter(folder, 100, True, True)
    flat: list[float] = []
    for values, weighted in parts:
        values = [0.0, *values]  # a document's first token is no label
        mask = np.array(values) != 0
        given_weights = np.array(values, dtype=np.float32) if weighted else None
        writer.add(
            np.arange(len(values)),
            mask,
            text_bytes=1,
            loss_bytes=1,
            last=True,
            weights=given_weights,
        )
        flat += [v if weighted else float(v != 0) for v in values]
    writer.close()
    store = TokenStore.open(folder)
    store.verify()
    everywhere = np.arange(len(flat))
    bears = store.bears_loss(everywhere)
    np.testing.assert_array_equal(bears, np.array(flat) != 0)
    found = store.loss_weights(everywhere)[bears]
    wanted = np.array(flat, dtype=np.float32)[bears]
    np.testing.assert_array_equal(found, wanted)
    if not bears.any():
        return
    stream = BatchStream(store, seq_length=8, global_batch_size=3, seed=1, epochs=1)
    cursor, total, steps = stream.start, 0.0, 0
    while (step := stream.step(cursor, micro_batch_size=1)) is not None:
        cursor, steps = step.cursor, steps + 1
        assert step.loss_weight is not None
        inside = sum(float(b.loss_weights.sum()) for b in step.micro_batches)
        assert step.loss_weight == pytest.approx(inside)
        total += step.loss_weight
    assert steps == -(-len(pack(store, 8)) // 3)
    assert total == pytest.approx(float(wanted.sum()))
