"""Questions of medicine with choices: right answers, and how sure the model was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.calibration import (
    BRIER,
    CALIBRATION,
    confidence_of,
)
from lumina.infer.evaluation_tasks.choices import (
    LETTERS,
    MultipleChoice,
    Question,
    field_text,
    lettered,
    question_of,
)
from lumina.infer.evaluation_tasks.task import Metric, Value, register_task

MEDICAL = Metric("medical_accuracy", "share of questions answered rightly")


@register_task
class MedicalQuestions(MultipleChoice):
    """MedQA, MedMCQA and PubMedQA, each with its own prompt."""

    name = "medical_qa"
    words = "medicine: right answers, and whether the model is as sure as it is right"
    source = (
        "MedQA, arXiv:2009.13081 (GBaker/MedQA-USMLE-4-options); MedMCQA, "
        "arXiv:2203.14371 (openlifescienceai/medmcqa); PubMedQA, arXiv:1909.06146 "
        "(qiaojin/PubMedQA, pqa_labeled)"
    )
    record = (
        "question, options (letter: text) and answer_idx, as MedQA; question, opa, "
        "opb, opc, opd and cop (from 0), as MedMCQA; or question, context (contexts: a "
        "list) and final_decision, as PubMedQA"
    )
    metrics = (MEDICAL, CALIBRATION, BRIER)

    def read(self, record: Mapping[str, Any], file: str) -> tuple[str, Question]:
        """The question of a record; the group is the form or, of MedMCQA, subject."""
        text = field_text(record, "question")
        if "options" in record:
            return "medqa", _medqa(text, record)
        if "opa" in record:
            return str(record.get("subject_name") or "medmcqa"), _medmcqa(text, record)
        return "pubmedqa", _pubmedqa(text, record)

    def judged(self, question: Question, logs: Sequence[float]) -> Mapping[str, Value]:
        """Whether the likeliest choice is right, and its probability among all."""
        confidence, brier = confidence_of(logs, question.gold)
        right = float(np.argmax(logs) == question.gold)
        return {
            MEDICAL.name: right,
            CALIBRATION.name: (confidence, right),
            BRIER.name: brier,
        }


def _letters(prompt: str, count: int, gold: int) -> Question:
    return question_of(prompt, list(LETTERS[:count]), gold)


def _medqa(text: str, record: Mapping[str, Any]) -> Question:
    options, key = record["options"], record.get("answer_idx")
    if not isinstance(options, dict) or key not in options:
        raise BadRecord("E102", f"the answer_idx {key!r} is none of the options")
    texts = list(options.values())
    if not all(isinstance(one, str) for one in texts):
        raise BadRecord("E102", "an option is no text")
    prompt = f"Question: {text}\n{lettered(texts)}\nAnswer:"
    return _letters(prompt, len(texts), list(options).index(key))


def _medmcqa(text: str, record: Mapping[str, Any]) -> Question:
    texts = [field_text(record, name) for name in ("opa", "opb", "opc", "opd")]
    prompt = f"Question: {text}\nChoices:\n{lettered(texts)}\nAnswer:"
    checked = question_of(prompt, texts, record.get("cop"))
    return _letters(prompt, 4, checked.gold)


def _pubmedqa(text: str, record: Mapping[str, Any]) -> Question:
    context, answers = record.get("context"), ["yes", "no", "maybe"]
    contexts = context.get("contexts") if isinstance(context, dict) else None
    if not isinstance(contexts, list) or not all(isinstance(c, str) for c in contexts):
        raise BadRecord("E102", "there are no options, no opa and no contexts")
    decision = record.get("final_decision")
    if decision not in answers:
        raise BadRecord("E102", f"the final_decision {decision!r} is none of {answers}")
    abstract = "\n".join(contexts)
    prompt = f"Abstract: {abstract}\nQuestion: {text}\nAnswer:"
    return question_of(prompt, answers, answers.index(decision))
