"""`lumina data show`: a record through every stage."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main

QA = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def show(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main(["data", "show", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


@pytest.mark.covers("DAT-06", "DAT-14: assistant tokens weighted")
def test_every_stage_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marked = [{**QA[0], "name": "Ann"}, {**QA[1], "weight": 0.5}]
    file = write(
        tmp_path / "chat.jsonl",
        {"text": "plain words"},
        {"messages": marked, "id": 7},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"weird": 1},
    )
    code, told = show(capsys, file, "--index", 1, "--role-weights", "user=0.1")
    assert code == 0
    assert f"source: {file}, line 2 (record 1)" in told
    assert 'record: {"messages": [{"role": "user"' in told
    assert "form: messages: " in told
    assert "user: ab  [name Ann; weight 0.1]" in told
    assert "assistant: cd  [weight 0.5]" in told
    assert "not read: id, messages[].name" in told
    assert "<|user|>⟦ab<|end|>⟧×0.1<|assistant|>⟦cd<|end|>⟧×0.5" in told
    assert "of weight 0.1, " in told and "of weight 0.5" in told
    code, told = show(capsys, file, "--line", 1)
    assert code == 0 and "<|endoftext|>⟦plain words<|endoftext|>⟧" in told
    code, told = show(capsys, file, "--line", 3)
    assert code == 1 and "chosen assistant: a" in told and "rejected user: q" in told
    assert "not trained on: E102: a record of the form 'preference'" in told
    code, told = show(capsys, file, "--line", 4)
    assert code == 1 and "not trained on: E102" in told and "weird" in told
    code, told = show(capsys, file, "--index", 9)
    assert code == 2 and told.startswith("E005") and "4 records" in told
    code, told = show(capsys, file, "--index", 1, "--json")
    values = json.loads(told)
    assert values["record"]["id"] == 7 and len(values["ids"]) == len(values["weights"])
    assert "".join(values["pieces"]) == values["text"]


def test_what_the_template_refuses_is_shown_and_members_of_archives_are_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "odd.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role == 'system' %}"
        "{{ raise_exception('no system') }}{% endif %}"
        "{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    )
    line = json.dumps({"messages": [{"role": "system", "content": "s"}, *QA]}).encode()
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for name, content in (("a/one.txt", b"some text"), ("a/two.jsonl", line)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    words = (tmp_path / "all.tar.gz", "--index", 1)
    code, told = show(capsys, *words)
    assert code == 0 and "all.tar.gz/a/two.jsonl, line 1" in told
    code, told = show(capsys, *words, "--chat-template", template)
    assert code == 1 and "E108" in told and "no system" in told


def test_colours_stand_for_brackets_on_a_terminal(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import lumina.cli.marked_tokens as marked_tokens

    monkeypatch.setattr(marked_tokens.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = write(tmp_path / "chat.jsonl", {"messages": QA})
    _, told = show(capsys, file)
    assert "\x1b[1;32mcd<|end|>\x1b[0m" in told and "⟦" not in told
    monkeypatch.setenv("NO_COLOR", "1")
    _, told = show(capsys, file)
    assert "⟦cd<|end|>⟧" in told and "\x1b" not in told


FILES = [
    ("chat/gsm8k_test.jsonl", ["--format", "prompt", "--field", "question=prompt",
                               "answer=completion"]),
    ("chat/oasst_en_100_tree.jsonl", []),
    ("chat/fastchat_dummy_conversation.json", []),
    ("chat/self_instruct_seed_tasks.jsonl", []),
    ("chat/mt_bench_question.jsonl", ["--format", "text", "--field", "turns=text"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words"), FILES, ids=[name for name, _ in FILES])
def test_real_records_are_shown(
    name: str,
    words: list[str],
    shared_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = ("--tokenizer-vocab-size", 400)
    code, told = show(capsys, shared_data / name, "--index", 3, *words, *size, "--json")
    values = json.loads(told)
    assert code == 0 and values["index"] == 3
    assert "".join(values["pieces"]) == values["text"]
    assert any(values["weights"])
