"""Folders that a dataset_info.json describes, and real files of records."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina import ConfigPresets
from lumina.data.documents import read_documents
from lumina.data.prepare import prepare
from lumina.errors import LuminaError


def write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def described(folder: Path, info: dict[str, Any], **files: Any) -> Path:
    write(folder / "dataset_info.json", info)
    for name, records in files.items():
        write(folder / f"{name}.json", records)
    return folder


def turns(folder: Path) -> list[Any]:
    return [
        document.text
        if document.messages is None
        else [(m["role"], m["content"]) for m in document.messages]
        for document in read_documents([folder])
    ]


def test_files_are_read_as_the_folder_says(tmp_path: Path) -> None:
    folder = described(
        tmp_path,
        {
            "a": {
                "file_name": "asked.json",
                "columns": {"prompt": "q", "response": "a"},
            },
            "b": {
                "file_name": "talks.json",
                "formatting": "sharegpt",
                "columns": {"messages": "chat", "system": "rules"},
                "tags": {
                    "role_tag": "who",
                    "content_tag": "said",
                    "user_tag": "me",
                    "assistant_tag": "it",
                },
            },
            "elsewhere": {"hf_hub_url": "some/where", "num_samples": 3},
        },
        asked=[{"q": "one", "a": "1", "input": "not this"}],
        plain=[{"text": "as it is"}],
        talks=[
            {
                "chat": [{"who": "me", "said": "two"}, {"who": "it", "said": "2"}],
                "rules": "count",
            }
        ],
    )
    unread: list[str] = []
    documents = list(read_documents([folder], on_unread=unread.extend))
    assert turns(folder) == [
        [("user", "one"), ("assistant", "1")],
        "as it is",
        [("system", "count"), ("user", "two"), ("assistant", "2")],
    ]
    assert [one.form for one in documents] == ["alpaca", "text", "sharegpt"]
    assert unread == ["input (no column)"]
    # What the folder says is part of what the data is.
    config = ConfigPresets.debug().replace(
        train_data=[str(folder)], eval_fraction=0.0, tokenizer_vocab_size=300
    )
    before = prepare(config).train.fingerprint
    info = json.loads((folder / "dataset_info.json").read_text())
    info["a"]["columns"]["query"] = "input"
    write(folder / "dataset_info.json", info)
    assert prepare(config).train.fingerprint != before
    assert turns(folder)[0][0] == ("user", "one\nnot this")


@pytest.mark.parametrize(
    ("entry", "code", "says"),
    [
        ({"num_samples": 3}, "E102", "num_samples"),
        ({"formatting": "other"}, "E102", "'other'"),
        ({"columns": {"weird": "x"}}, "E102", "'weird'"),
        ({"ranking": True}, "E102", "pairs of answers"),
        ({"columns": {"images": "pictures"}}, "E102", "'pictures'"),
    ],
)
def test_what_the_folder_says_and_lumina_cannot_do_is_refused_by_name(
    entry: dict[str, Any], code: str, says: str, tmp_path: Path
) -> None:
    record = {"instruction": "q", "output": "a", "chosen": "a", "rejected": "b"}
    folder = described(
        tmp_path,
        {"a": {"file_name": "asked.json", **entry}},
        asked=[{**record, "pictures": ["x.png"]}],
    )
    with pytest.raises(LuminaError, match=says) as refused:
        turns(folder)
    assert refused.value.code == code


FILES: list[tuple[str, dict[str, Any], str, int, str]] = [
    # file, options, form, records, words that bear loss
    (
        "gsm8k_test.jsonl",
        {"format": "prompt", "field": ["question=prompt", "answer=completion"]},
        "prompt",
        1319,
        "Janet sells 16 - 3 - 4",
    ),
    ("oasst_en_100_tree.jsonl", {}, "oasst", 100, ""),
    ("fastchat_dummy_conversation.json", {}, "sharegpt", 500, "I am Vicuna"),
    (
        "llamafactory_glaive_toolcall_en_demo.json",
        {},
        "sharegpt",
        300,
        "search_recipes",
    ),
    ("self_instruct_seed_tasks.jsonl", {}, "self_instruct", 175, "1 oatmeal banana"),
    (
        "mt_bench_question.jsonl",
        {"format": "text", "field": ["turns=text"]},
        "text",
        80,
        "travel blog post",
    ),
]


@pytest.mark.covers("DAT-06", "DAT-02")
@pytest.mark.parametrize(("name", "options", "form", "count", "words"), FILES)
def test_real_files_are_read_whole(
    shared_data: Path,
    name: str,
    options: dict[str, Any],
    form: str,
    count: int,
    words: str,
) -> None:
    config = ConfigPresets.debug().replace(
        train_data=[str(shared_data / "chat" / name)],
        eval_fraction=0.0,
        tokenizer_vocab_size=512,
        **options,
    )
    told: list[dict[str, Any]] = []
    prepared = prepare(config, on_event=lambda **event: told.append(event))
    assert prepared.stats["documents"] + prepared.stats["skipped"] == count
    assert prepared.stats["skipped"] == 0
    (event,) = (e for e in told if e["kind"] == "data_forms")
    assert event["forms"] == {form: count} and event["severity"] == "info"
    store = prepared.train
    first = store.document(0)
    bears = store.bears_loss(np.arange(len(first)))
    assert words in prepared.tokenizer.decode(first[bears].tolist())
    assert 0 < store.loss_tokens <= len(store.tokens)


@pytest.mark.parametrize(
    ("name", "says"),
    [("mt_bench_question.jsonl", "no answer"), ("gsm8k_test.jsonl", "--format prompt")],
)
def test_real_files_without_an_answer_to_learn_are_refused_by_name(
    shared_data: Path, name: str, says: str
) -> None:
    with pytest.raises(LuminaError) as refused:
        list(read_documents([shared_data / "chat" / name]))
    assert refused.value.code == "E102"
    assert says in refused.value.message + refused.value.hint


def test_the_folder_of_llama_factory_is_read(shared_data: Path, tmp_path: Path) -> None:
    chat = shared_data / "chat"
    shutil.copy(chat / "llamafactory_dataset_info.json", tmp_path / "dataset_info.json")
    shutil.copy(
        chat / "llamafactory_glaive_toolcall_en_demo.json",
        tmp_path / "glaive_toolcall_en_demo.json",
    )
    documents = list(read_documents([tmp_path]))
    assert len(documents) == 300
    first = documents[0].messages
    assert first is not None and first[0]["tools"][0]["type"] == "function"
