"""`lumina evaluate --tasks`: multiple choice by likelihood, as a reference has it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lumina
from infer.networks import tiny, write_run
from infer.test_kv_cache import KINDS
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.likelihood import Request, likelihoods
from lumina.infer.evaluation_tasks.subject import Subject
from lumina.model.network import Network
from tiny_runs import story


@torch.no_grad()
def alone(network: Network, context: list[int], after: list[int]) -> tuple[float, bool]:
    """The sum of the log-probabilities of `after`, one text at a time; and greedy."""
    logits = network.logits(torch.tensor([context + after]))[0].double()
    total, greedy = 0.0, True
    for place, token in enumerate(after):
        row = logits[len(context) - 1 + place]
        total += float(row[token] - row.logsumexp(0))
        greedy &= int(row.argmax()) == token
    return total, greedy


def requests(seed: int, count: int = 5) -> list[Request]:
    """Of many lengths; some share a context, some differ in the last token alone."""
    draw = random.Random(seed)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(draw.randrange(61) for _ in range(length))

    found = [Request(ids(draw.randint(1, 20)), ids(draw.randint(1, 6)))
             for _ in range(count)]  # fmt: skip
    found += [Request(found[0].context, ids(length)) for length in (1, 1, 3)]
    whole = found[0].context + found[0].continuation
    # The same row with a longer continuation, and with another end.
    if len(whole) > 3:
        found += [
            Request(whole[:1], whole[1:]),
            Request(whole[:2], (*whole[2:-1], (whole[-1] + 1) % 61)),
        ]
    return found


def agree(network: Network, seed: int) -> None:
    asked = requests(seed)
    wanted = [alone(network, list(a), list(b)) for a, b in asked]
    for rows in (None, 3):
        found = likelihoods(network, asked, rows=rows)
        assert [one.log_probability for one in found] == pytest.approx(
            [total for total, _ in wanted], abs=2e-4
        )
        assert [one.greedy for one in found] == [greedy for _, greedy in wanted]
        assert [one.tokens for one in found] == [len(r.continuation) for r in asked]


@pytest.mark.covers("EVL-02: MMLU, HellaSwag, TruthfulQA")
def test_side_by_side_is_as_one_at_a_time(network: Network) -> None:
    agree(network.eval(), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_side_by_side_is_as_one_at_a_time_for_every_kind(kind: str) -> None:
    agree(tiny(**KINDS[kind]).eval(), 2)


def test_logits_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lumina.infer.evaluation_tasks.likelihood._LOGITS_BYTES", 4 * 64 * 2
    )
    agree(tiny().eval(), 3)


def test_the_likeliest_continuation_is_greedy() -> None:
    network = tiny().eval()
    context = [5, 9, 2]
    ids = list(lumina.infer.generate.generate(
        network, context, max_new_tokens=4, temperature=0))  # fmt: skip
    [one, other] = likelihoods(
        network,
        [
            Request(tuple(context), tuple(ids)),
            Request(tuple(context), (*ids[:-1], (ids[-1] + 1) % 61)),
        ],
    )
    assert one.greedy and not other.greedy
    assert one.log_probability > other.log_probability


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return Tokenizer.train([story(40), "A. B. C. D. Answer: Question: " * 9], 300)


@pytest.fixture(scope="module")
def model(letters: Tokenizer) -> tuple[Network, Tokenizer]:
    return tiny(letters.vocab_size, seed=5, seq_length=256).eval(), letters


@pytest.fixture(scope="module")
def run(
    model: tuple[Network, Tokenizer], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), {1: model[0]}, model[1])


def test_a_continuation_is_scored_as_exactly_its_text(
    model: tuple[Network, Tokenizer],
) -> None:
    subject, tokenizer = Subject(*model), model[1]
    texts = ["The cat", " went", " to the barn ", "on day", " 7", "é", "  x", "t to"]
    for context in [*texts, ""]:
        for continuation in texts:
            before, after = subject.encoded(context, continuation)
            said = tokenizer.without_begin(before + after)
            assert tokenizer.decode(said) == context + continuation
            # Spaces at the context's end belong to the continuation.
            kept = len(context) - len(context.rstrip())
            tail = context[len(context) - kept :] if kept else ""
            assert tokenizer.decode(after) == tail + continuation


def test_what_is_too_long_is_refused_or_cut_from_the_left_and_counted(
    model: tuple[Network, Tokenizer],
) -> None:
    network = model[0]
    long, after = story(30), " to the barn"
    with pytest.raises(LuminaError, match="--too-long cut") as refused:
        Subject(*model).likelihoods([(long, after)])
    assert refused.value.code == "E005"
    subject = Subject(*model, too_long="cut")
    [found, short] = subject.likelihoods([(long, after), ("The cat went", after)])
    assert subject.counts.cut == 1
    before, ids = subject.encoded(long, after)
    # The model reads 256 tokens: all but the last one of what is given.
    kept = (before + ids)[-257:]
    wanted, _ = alone(network, kept[: -len(ids)], ids)
    assert found.log_probability == pytest.approx(wanted, abs=1e-4)
    assert short.log_probability == pytest.approx(
        alone(network, *subject.encoded("The cat went", after))[0], abs=1e-4
    )
    with pytest.raises(LuminaError, match="never cut"):
        subject.likelihoods([("The", story(30))])
    prompts = subject.answers([long, "The cat"], max_new_tokens=5)
    assert subject.counts.cut == 2 and len(prompts) == 2
    [same] = Subject(*model).answers(["The cat"], max_new_tokens=5)
    assert prompts[1].text == same.text
    with pytest.raises(LuminaError, match="E005"):
        Subject(*model).answers([long], max_new_tokens=5)


def plain(model: tuple[Network, Tokenizer], context: str, choice: str) -> float:
    """As lm-evaluation-harness scores a choice, one at a time."""
    network, tokenizer = model
    before = [*tokenizer.begin, *tokenizer.encode(context)]
    whole = [*tokenizer.begin, *tokenizer.encode(f"{context} {choice}")]
    return alone(network, before, whole[len(before) :])[0]


OWN = [
    {"question": "Where did the cat go?", "choices": ["to the barn", "hill", "é—to"],
     "answer": 1},
    {"question": "The dog went", "choices": ["to the lake on day 9 and slept", "wood"],
     "answer": "wood", "group": "dogs"},
    {"question": "The owl", "choices": ["slept", "went", "barn", "day"],
     "answer": "D", "group": "owls"},
    {"question": "Day", "choices": ["1", "2", "0"], "answer": "0", "group": "owls"},
]  # fmt: skip
RIGHT = [1, 1, 3, 2]


def as_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_accuracies_are_those_of_the_plain_reference(
    model: tuple[Network, Tokenizer], tmp_path: Path
) -> None:
    data = as_jsonl(tmp_path / "own.jsonl", OWN)
    found = lumina.evaluate_tasks(model, {"multiple_choice": data})
    result = found.tasks["multiple_choice"]
    want: dict[str, list[float]] = {"acc": [], "acc_norm": [], "acc_bytes": []}
    for record, right, example in zip(OWN, RIGHT, result.examples, strict=True):
        logs = [plain(model, record["question"], c) for c in record["choices"]]
        assert example["log_likelihoods"] == pytest.approx(logs, abs=1e-4)
        assert example["chosen"] == int(np.argmax(logs))
        for name, lengths in (
            ("acc", [1] * len(logs)),
            ("acc_norm", [len(c) for c in record["choices"]]),
            ("acc_bytes", [len(c.encode()) for c in record["choices"]]),
        ):
            scores = [log / n for log, n in zip(logs, lengths, strict=True)]
            want[name].append(float(int(np.argmax(scores)) == right))
    for name, values in want.items():
        figure = result.figures[name]
        assert figure.value == pytest.approx(np.mean(values))
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        assert figure.standard_error == pytest.approx(error)
        assert figure.examples == 4 and figure.higher_is_better is True
        assert result.groups["owls"][name].value == pytest.approx(np.mean(values[2:]))
    assert sorted(result.groups) == ["", "dogs", "owls"]


def test_characters_and_bytes_divide_differently() -> None:
    from lumina.infer.evaluation_tasks.choices import Question, accuracies

    # Sums prefer the first, a character the second, a byte the third.
    question = Question("", ("a", "bbbb", "éééé"), 2)
    logs = [-3.0, -6.0, -6.4]
    assert accuracies(question, logs) == {"acc": 0, "acc_norm": 0, "acc_bytes": 1}
    question = Question("", question.choices, 1)
    assert accuracies(question, logs) == {"acc": 0, "acc_norm": 1, "acc_bytes": 0}
    question = Question("", question.choices, 0)
    assert accuracies(question, logs) == {"acc": 1, "acc_norm": 0, "acc_bytes": 0}


MMLU = [
    {"question": " Where? ", "subject": "barn_studies", "answer": 2,
     "choices": ["hill", "lake", "barn", "wood"]},
    {"question": "Who?", "subject": "hill_studies", "answer": 0,
     "choices": ["cat", "dog", "owl", "fox"]},
]  # fmt: skip


@pytest.mark.covers("EVL-02: MMLU, HellaSwag, TruthfulQA")
def test_mmlu_has_the_prompts_of_the_paper_in_both_published_forms(
    model: tuple[Network, Tokenizer], tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    hub = tmp_path / "test-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(MMLU), hub)
    solved = as_jsonl(tmp_path / "dev.jsonl", MMLU)
    options: dict[str, Any] = {"shots": 1, "shots_data": {"mmlu": solved}}
    found = lumina.evaluate_tasks(model, {"mmlu": hub}, **options).tasks["mmlu"]
    context = (
        "The following are multiple choice questions (with answers) about barn "
        "studies.\n\nWhere?\nA. hill\nB. lake\nC. barn\nD. wood\nAnswer: C\n\n"
        "Where?\nA. hill\nB. lake\nC. barn\nD. wood\nAnswer:"
    )
    logs = [plain(model, context, letter) for letter in "ABCD"]
    assert found.examples[0]["log_likelihoods"] == pytest.approx(logs, abs=1e-4)
    assert found.examples[0]["right"] == 2
    assert sorted(found.groups) == ["barn_studies", "hill_studies"]
    folder = tmp_path / "authors"
    folder.mkdir()
    for record in MMLU:
        letter = "ABCD"[record["answer"]]
        line = ",".join([record["question"], *record["choices"], letter])
        (folder / f"{record['subject']}_test.csv").write_text(line + "\n")
    numbered = tmp_path / "barn_studies_val.csv"
    rows = [["question", *(f"choice{n}" for n in range(4)), "answer"],
            [MMLU[0]["question"], *MMLU[0]["choices"], "2"]]  # fmt: skip
    numbered.write_text("".join(",".join(row) + "\n" for row in rows))
    again = lumina.evaluate_tasks(model, {"mmlu": numbered}, **options).tasks["mmlu"]
    assert again.examples[0]["log_likelihoods"] == pytest.approx(logs, abs=1e-4)
    assert again.examples[0]["group"] == "barn_studies"
    own = lumina.evaluate_tasks(model, {"mmlu": folder}, **options).tasks["mmlu"]
    assert own.figures == found.figures and own.groups == found.groups
    assert [one["log_likelihoods"] for one in own.examples] == [
        one["log_likelihoods"] for one in found.examples
    ]
    assert [one["id"] for one in own.examples] == [
        "barn_studies_test.csv:1",
        "hill_studies_test.csv:1",
    ]


@pytest.mark.covers("EVL-02: custom benchmarks")
def test_the_command_prints_a_table_and_writes_every_answer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = as_jsonl(tmp_path / "own.jsonl", OWN)
    words = ["evaluate", str(run), "--tasks", f"multiple_choice={data}"]
    assert main(words) == 0
    told = capsys.readouterr()
    [line] = [x for x in told.out.splitlines() if x.startswith("multiple_choice  acc ")]
    saved = json.loads((run / "evaluations" / "0001.json").read_text())
    task = saved["tasks"]["multiple_choice"]
    acc = task["figures"]["acc"]
    assert line.split()[2:] == [
        f"{acc['value']:.4f}", f"{acc['standard_error']:.4f}", "4", "higher"
    ]  # fmt: skip
    assert "evaluations/0001.json" in told.err
    assert [one["id"] for one in task["examples"]] == [
        f"own.jsonl:{n}" for n in (1, 2, 3, 4)
    ]
    assert main([*words, "--json", "--batch-size", "1"]) == 0
    again = json.loads(capsys.readouterr().out)["tasks"]["multiple_choice"]
    assert again["figures"] == task["figures"] and "examples" not in again
    assert (run / "evaluations" / "0002.json").is_file()
    out = tmp_path / "figures.json"
    assert main([*words, "--limit", "2", "--output", str(out)]) == 0
    assert len(json.loads(out.read_text())["tasks"]["multiple_choice"]["examples"]) == 2
    capsys.readouterr()
    assert main([*words, "--output", str(out)]) == 2
    assert "name a new file" in capsys.readouterr().err
    assert main([*words, "--output", str(tmp_path / "none" / "found.json")]) == 1
    said = capsys.readouterr()  # before anything is asked
    assert "there is no folder" in said.err and not said.out
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--tasks", "mmul=own.jsonl"], 2, "did you mean 'mmlu'"),
        (["--tasks", "mmlu"], 2, "names no task and its file"),
        (["--tasks", "mmlu=gone.jsonl"], 1, "E104"),
        (["--tasks", "mmlu=own.jsonl"], 1, "own.jsonl, line 2"),
        (["--tasks", "mmlu=text.txt"], 1, "no records"),
        (["--tasks", "mmlu=hf://cais/mmlu"], 2, "downloads nothing"),
        (["--tasks", "multiple_choice=own.jsonl", "--data", "text.txt"], 2, "--data"),
        (["--tasks", "multiple_choice=own.jsonl", "--shots", "1"], 2, "--shots-data"),
        (["--data", "text.txt", "--shots", "1"], 2, "--shots does nothing"),
        (["--tasks", "multiple_choice=own.jsonl", "--limit", "0"], 2, "limit is 0"),
        (["--tasks", "mmlu=own.jsonl", "--task-option", "mmlu.x=1"], 2, "no option"),
        ([], 2, "--tasks NAME=FILE"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    words: list[str], code: int, said: str, run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    as_jsonl(Path("own.jsonl"), OWN)
    Path("text.txt").write_text("a text")
    assert main(["evaluate", str(run), *words]) == code
    assert said in capsys.readouterr().err


def test_bad_records_are_fatal_or_skipped_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"question": "What?", "choices": ["one", "two"], "answer": 2}
    data = as_jsonl(tmp_path / "own.jsonl", [OWN[0], bad, OWN[1]])
    words = ["evaluate", str(run), "--tasks", f"multiple_choice={data}"]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "own.jsonl, line 2: the answer is 2" in told and "E102" in told
    assert main([*words, "--data-errors", "skip", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["tasks"]["multiple_choice"]
    assert found["skipped"] == 1 and found["figures"]["acc"]["examples"] == 2


def test_a_conversation_asks_as_a_user_and_scores_the_answer(
    model: tuple[Network, Tokenizer],
) -> None:
    tokenizer = model[1].with_chat()
    network = tiny(tokenizer.vocab_size, seed=5, seq_length=256).eval()
    subject = Subject(network, tokenizer, chat=True)
    asked = [{"role": "user", "content": "Where did the cat go?"}]
    before = tokenizer.chat_prompt(asked)
    [after] = tokenizer.encode_contents(["to the barn"])
    wanted, _ = alone(network, before, after)
    [found] = subject.likelihoods([("Where did the cat go?", " to the barn")])
    assert found.log_probability == pytest.approx(wanted, abs=1e-4)
    [answer] = subject.answers(["Where did the cat go?"], max_new_tokens=5)
    said = lumina.chat((network, tokenizer), asked, max_new_tokens=5, temperature=0)
    assert answer.text == said
