"""Lumina's own evaluation tasks: published forms, prompts, and their metrics."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lumina
from infer.networks import tiny
from infer.test_evaluation_tasks import alone, as_jsonl, plain
from lumina.cli.main import main
from lumina.data.records import BadRecord
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.asking import generate
from lumina.infer.evaluation_tasks.calibration import (
    confidence_of,
    expected_calibration_error,
)
from lumina.infer.evaluation_tasks.results import TaskResult
from lumina.infer.evaluation_tasks.task import TASKS, chosen_task
from lumina.infer.evaluation_tasks.truthful import PROMPT
from lumina.infer.text import Completion
from lumina.measure.text_bits import text_bits
from lumina.model.network import Network
from tiny_runs import story

Loaded = tuple[Network, Tokenizer]


@pytest.fixture(scope="module")
def model() -> Loaded:
    tokenizer = Tokenizer.train([story(40), PROMPT * 2, "Question: Answer: " * 9], 330)
    return tiny(tokenizer.vocab_size, seed=5, seq_length=1024).eval(), tokenizer


def asked(
    model: Loaded, task: str, path: Path, records: list[Any], **options: Any
) -> TaskResult:
    data = as_jsonl(path / f"{task}.jsonl", records)
    return lumina.evaluate_tasks(model, {task: data}, **options).tasks[task]


def prompt_and_choices(task: str, record: dict[str, Any]) -> tuple[str, list[str], int]:
    _, question = chosen_task(task)().read(record, "file.jsonl")
    return question.prompt, list(question.choices), question.gold


HELLASWAG = {
    "ind": 4, "activity_label": "Removing ice",
    "ctx_a": "Then, the man writes. [step] x",
    "ctx_b": "then he", "ctx": "…", "label": "3", "split": "val", "source_id": "a~v",
    "endings": [" sleeps.", "goes [substeps] home", "runs [title] on", "sits  down"],
}  # fmt: skip
ARC_HUB = {
    "id": "M", "question": "Which is hot?", "answerKey": "2",
    "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]},
}  # fmt: skip
ARC_OWN = {
    "id": "M", "answerKey": "B",
    "question": {"stem": "Which is hot?", "choices": [
        {"text": "ice", "label": "A"}, {"text": "fire", "label": "B"}]},
}  # fmt: skip
TRUTHFUL = {
    "question": "Where did the cat go?",
    "mc1_targets": {"choices": ["to the barn", "wood"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["hill", "barn", "the lake"], "labels": [1, 0, 1]},
}
TRUTHFUL_OWN = {
    "question": "Where did the cat go?",
    "mc1_targets": {"to the barn": 1, "wood": 0},
    "mc2_targets": {"hill": 1, "barn": 0, "the lake": 1},
}
MEDQA = {"question": "Which?", "options": {"A": "cat", "B": "dog"}, "answer_idx": "B"}
MEDMCQA = {"question": "Which?", "opa": "a", "opb": "b", "opc": "c", "opd": "d",
           "cop": 2, "subject_name": "Dental"}  # fmt: skip
PUBMEDQA = {"question": "Is it?", "context": {"contexts": ["One.", "Two."]},
            "final_decision": "maybe"}  # fmt: skip


@pytest.mark.covers(
    "EVL-02: MMLU, HellaSwag, TruthfulQA",
    "EVL-02: medical_qa",
)
@pytest.mark.parametrize(
    ("task", "record", "prompt", "choices", "gold"),
    [
        ("hellaswag", HELLASWAG,
         "Removing ice: Then, the man writes. x Then he",
         ["sleeps.", "goes home", "runs. on", "sits down"], 3),
        ("arc", ARC_HUB, "Question: Which is hot?\nAnswer:",
         ["ice", "fire", "snow"], 1),
        ("arc", ARC_OWN, "Question: Which is hot?\nAnswer:", ["ice", "fire"], 1),
        ("truthfulqa_mc1", TRUTHFUL, PROMPT.format(question="Where did the cat go?"),
         ["to the barn", "wood"], 0),
        ("truthfulqa_mc1", TRUTHFUL_OWN,
         PROMPT.format(question="Where did the cat go?"), ["to the barn", "wood"], 0),
        ("medical_qa", MEDQA, "Question: Which?\nA. cat\nB. dog\nAnswer:",
         ["A", "B"], 1),
        ("medical_qa", MEDMCQA,
         "Question: Which?\nChoices:\nA. a\nB. b\nC. c\nD. d\nAnswer:",
         ["A", "B", "C", "D"], 2),
        ("medical_qa", PUBMEDQA, "Abstract: One.\nTwo.\nQuestion: Is it?\nAnswer:",
         ["yes", "no", "maybe"], 2),
    ],
)  # fmt: skip
def test_a_published_record_has_the_prompt_of_lm_evaluation_harness(
    task: str, record: dict[str, Any], prompt: str, choices: list[str], gold: int
) -> None:
    assert prompt_and_choices(task, record) == (prompt, choices, gold)


@pytest.mark.parametrize(
    ("task", "record", "said"),
    [
        ("hellaswag", {**HELLASWAG, "label": ""}, "validation set"),
        ("hellaswag", {**HELLASWAG, "endings": ["one"]}, "two or more"),
        ("arc", {**ARC_HUB, "answerKey": "D"}, "answerKey"),
        ("arc", {"question": "What?", "choices": ["a", "b"]}, "text and label"),
        ("truthfulqa_mc1",
         {"question": "?", "mc1_targets": {"choices": ["a", "b"], "labels": [1, 1]}},
         "2 true answers"),
        ("truthfulqa_mc2",
         {"question": "?", "mc2_targets": {"choices": ["a", "b"], "labels": [1, 1]}},
         "no false answer"),
        ("medical_qa", {**MEDQA, "answer_idx": "E"}, "answer_idx"),
        ("medical_qa", {"question": "Which?"}, "no options"),
        ("medical_answers", {"question": "What?"}, "no terms"),
        ("medical_answers", {"question": "What?", "terms": ["!"]}, "no word"),
        ("crows_pairs", {"sent_more": "a"}, "sent_less"),
        ("coherence", {"text": "One sentence."}, "no two different"),
        ("factuality", {"question": "Who?", "answer": []}, "the answer is"),
        ("perplexity", {"text": " "}, "text"),
        ("mmlu", {"question": "Who?", "choices": ["a", "b"], "answer": True}, "True"),
    ],
)  # fmt: skip
def test_a_record_without_what_it_needs_says_so(
    task: str, record: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadRecord) as bad:
        chosen_task(task)().read(record, "file.jsonl")
    assert said in f"{bad.value.reason} {bad.value.hint}" and bad.value.code == "E102"


@pytest.mark.covers("EVL-02: toxicity, bias, coherence, factuality")
def test_the_share_of_true_answers_is_their_share_of_the_probability(
    model: Loaded, tmp_path: Path
) -> None:
    found = asked(model, "truthfulqa_mc2", tmp_path, [TRUTHFUL, TRUTHFUL_OWN])
    prompt = PROMPT.format(question=TRUTHFUL["question"])
    logs = [plain(model, prompt, c) for c in TRUTHFUL["mc2_targets"]["choices"]]
    hill, barn, lake = (math.exp(log) for log in logs)
    share = (hill + lake) / (hill + barn + lake)
    assert found.figures["acc"].value == pytest.approx(share, rel=1e-3)
    assert found.figures["acc"].standard_error == pytest.approx(0, abs=1e-9)


def test_calibration_is_that_of_the_paper() -> None:
    # Three bins of 15: in one, confidence 0.9 and two of three right, and so on.
    values = np.array([[0.9, 1], [0.91, 1], [0.92, 0], [0.35, 0], [0.6, 1.0]])
    apart = abs(0.91 * 3 - 2) + 0.35 + 0.4
    assert expected_calibration_error(values) == pytest.approx(apart / 5)
    edges = np.array([[1.0, 1], [1 / 15, 0], [0.0, 0]])
    assert expected_calibration_error(edges) == pytest.approx((1 / 15) / 3)
    confidence, brier = confidence_of([math.log(0.2), math.log(0.6)], 0)
    assert confidence == pytest.approx(0.75) and brier == pytest.approx(2 * 0.75**2)
    assert confidence_of([-2000.0, -1000.0], 1) == (1.0, 0.0)


@pytest.mark.covers("EVL-04: medical_accuracy", "EVL-04: uncertainty_calibration")
def test_medical_questions_give_accuracy_and_calibration(
    model: Loaded, tmp_path: Path
) -> None:
    records = [MEDQA, MEDMCQA, PUBMEDQA, {**MEDQA, "answer_idx": "A"}]
    found = asked(model, "medical_qa", tmp_path, records)
    right, sure, brier = [], [], []
    for record in records:
        prompt, choices, gold = prompt_and_choices("medical_qa", record)
        shares = np.exp([plain(model, prompt, choice) for choice in choices])
        shares /= shares.sum()
        right.append(float(shares.argmax() == gold))
        sure.append(shares.max())
        brier.append(((shares - np.eye(len(shares))[gold]) ** 2).sum())
    assert found.figures["medical_accuracy"].value == pytest.approx(np.mean(right))
    error = expected_calibration_error(np.stack([sure, right], 1))
    calibration = found.figures["uncertainty_calibration"]
    assert calibration.value == pytest.approx(error, rel=1e-3)
    assert calibration.higher_is_better is False and calibration.standard_error
    assert found.figures["brier"].value == pytest.approx(np.mean(brier), rel=1e-3)
    assert sorted(found.groups) == ["Dental", "medqa", "pubmedqa"]


def saying(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[str]:
    """The model answers with these texts, by what the prompt has in it."""
    prompts: list[str] = []

    def said(self: Any, asked: list[str], **_: Any) -> list[Completion]:
        prompts.extend(asked)
        return [
            Completion(next(a for q, a in answers.items() if q in prompt), [], "stop")
            for prompt in asked
        ]

    monkeypatch.setattr("lumina.infer.evaluation_tasks.subject.Subject.answers", said)
    return prompts


@pytest.mark.covers("EVL-04: terminology_usage", "EVL-04: safety_score")
def test_medical_answers_are_judged_by_the_phrases_of_the_record(
    model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = saying(monkeypatch, {
        "one": "A myocardial  INFARCTION is likely; call an ambulance.",
        "two": "Stop taking insulin. See a doctor.",
        "three": "Take insulins.",
    })  # fmt: skip
    common = {"terms": [["heart attack", "myocardial infarction"], "troponin"]}
    found = asked(model, "medical_answers", tmp_path, [
        {"question": "one?", "required": [["doctor", "ambulance"]], **common},
        {"question": "two?", "required": ["a doctor"],
         "unsafe": ["stop taking insulin"]},
        {"question": "three?", "unsafe": ["take insulin"]},
        {"question": "two?", "required": ["ambulance"]},
    ])  # fmt: skip
    assert prompts[0] == "Question: one?\nAnswer:"
    terms = found.figures["terminology_usage"]
    assert (terms.value, terms.examples, terms.standard_error) == (0.5, 1, None)
    # Right; has the unsafe statement; "insulins" is another word; lacks the advice.
    assert [e["values"]["safety_score"] for e in found.examples] == [1, 0, 1, 0]
    assert found.figures["safety_score"].value == 0.5


@pytest.mark.covers("EVL-02: toxicity, bias, coherence, factuality")
def test_toxicity_counts_continuations_with_a_word_of_the_list(
    model: Loaded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["The cat went", "The owl", "The dog and"]
    texts = generate(model, prompts, max_new_tokens=6, temperature=0)
    words = next(w for w in texts[0].split() if w.isalnum())
    listed = tmp_path / "words.txt"
    listed.write_text(f"zzz\n{words.upper()}\n")
    options = {"toxicity": {"words": str(listed), "tokens": "6"}}
    records = [{"prompt": prompts[0]}, {"prompt": {"text": prompts[1]}},
               {"prompt": prompts[2]}]  # fmt: skip
    found = asked(model, "toxicity", tmp_path, records, options=options)
    assert [e["answer"] for e in found.examples] == texts
    import re

    has = [words.lower() in re.findall(r"\w+", text.lower()) for text in texts]
    assert has[0] and found.figures["toxic_rate"].value == pytest.approx(np.mean(has))
    assert found.figures["toxic_rate"].higher_is_better is False
    with pytest.raises(LuminaError, match=r"toxicity\.words=FILE"):
        asked(model, "toxicity", tmp_path, records)
    assert main(["evaluate", "--list-tasks"]) == 0
    listing = capsys.readouterr().out
    assert all(f"\n{name}\n" in f"\n{listing}" for name in TASKS.known())


@pytest.mark.covers("EVL-02: toxicity, bias, coherence, factuality")
def test_bias_is_how_far_from_even_stereotypes_are_likelier(
    model: Loaded, tmp_path: Path
) -> None:
    pairs = [("The cat went to the barn", "The dog went to the barn"),
             ("The owl slept", "The hen slept"),
             ("The fox", "The cat and the owl")]  # fmt: skip
    data = tmp_path / "crows_pairs_anonymized.csv"
    data.write_text(
        ",sent_more,sent_less,stereo_antistereo,bias_type\n"
        + "".join(f"{n},{a},{b},stereo,kind{n % 2}\n" for n, (a, b) in enumerate(pairs))
    )
    found = lumina.evaluate_tasks(model, {"crows_pairs": data}).tasks["crows_pairs"]
    network, tokenizer = model
    begin = tokenizer.begin or [tokenizer.eos_id]
    logs = [[alone(network, begin, tokenizer.encode(text))[0] for text in pair]
            for pair in pairs]  # fmt: skip
    share = np.mean([more > less for more, less in logs])
    assert found.figures["pct_stereotype"].value == pytest.approx(share)
    assert found.figures["bias_score"].value == pytest.approx(abs(2 * share - 1))
    apart = np.mean([abs(more - less) for more, less in logs])
    assert found.figures["likelihood_diff"].value == pytest.approx(apart, rel=1e-3)
    assert sorted(found.groups) == ["kind0", "kind1"]


@pytest.mark.covers("EVL-02: toxicity, bias, coherence, factuality")
def test_coherence_is_the_share_of_other_orders_that_are_less_likely(
    model: Loaded, tmp_path: Path
) -> None:
    text = "The cat went. The owl slept on a hill! Was it day 7? It was."
    records = [{"text": text}, {"text": "The hen. The owl."}]
    found = asked(model, "coherence", tmp_path, records)
    network, tokenizer = model
    begin = tokenizer.begin or [tokenizer.eos_id]
    for example, record in zip(found.examples, records, strict=True):
        own, *others = example["choices"]
        assert own == record["text"] and len(others) == 4 and own not in others
        assert all(sorted(o.split()) == sorted(own.split()) for o in others)
        logs = [alone(network, begin, tokenizer.encode(t))[0] for t in (own, *others)]
        share = np.mean([logs[0] > log for log in logs[1:]])
        assert example["values"]["coherence"] == pytest.approx(share)
    again = asked(model, "coherence", tmp_path, records)
    assert again.examples == found.examples  # any model is asked the same


@pytest.mark.covers("EVL-02: toxicity, bias, coherence, factuality")
def test_facts_are_judged_as_squad_judges_answers(
    model: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = saying(monkeypatch, {"Who?": " The  Eiffel-Tower.", "Where?": "in Rome"})
    solved = as_jsonl(tmp_path / "s.jsonl", [{"question": "What?", "answer": "That"}])
    found = asked(model, "factuality", tmp_path, [
        {"question": "Who?", "answer": {"aliases": ["nobody", "eiffeltower"]}},
        {"question": "Where?", "answer": ["Paris", "a city, Rome"]},
        {"question": "Where?", "answer": "Oslo"},
    ], shots=1, shots_data={"factuality": solved})  # fmt: skip
    assert prompts[0] == "Question: What?\nAnswer: That\n\nQuestion: Who?\nAnswer:"
    values = [example["values"] for example in found.examples]
    assert [one["exact_match"] for one in values] == [1, 0, 0]
    assert [one["f1"] for one in values] == [1, pytest.approx(0.5), 0]


@pytest.mark.covers("EVL-03: metrics perplexity, accuracy, coherence, safety")
@pytest.mark.parametrize("length", [1024, 24])
def test_perplexity_is_that_of_every_token_once(
    length: int, model: Loaded, tmp_path: Path
) -> None:
    tokenizer = model[1]
    network = tiny(tokenizer.vocab_size, seed=5, seq_length=length).eval()
    texts = [story(2), "The owl", story(5, first=90)]
    found = asked((network, tokenizer), "perplexity", tmp_path,
                  [{"text": text} for text in texts])  # fmt: skip
    bits = text_bits(network, tokenizer, texts, context=length)
    size = sum(len(text.encode()) for text in texts)
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert found.figures["bits_per_byte"].value == pytest.approx(bits / size, rel=1e-4)
    loss = bits * math.log(2) / tokens
    assert found.figures["perplexity"].value == pytest.approx(math.exp(loss), rel=1e-4)
    assert sum(e["tokens"] for e in found.examples) == tokens
    error = found.figures["perplexity"].standard_error
    assert error is not None and error > 0
    assert json.dumps(found.examples)
