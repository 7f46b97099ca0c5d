"""An evaluation task outside the package: does an answer say a word it has to say?"""

from typing import ClassVar

import lumina
from lumina.data.records import BadRecord
from lumina.infer.evaluation_tasks.task import EvaluationTask, Metric, Outcome
from lumina.optim.declared import Option


@lumina.register_task
class SaysIt(EvaluationTask):
    name = "says_it"
    words = "whether an answer holds a word"
    source = "nowhere: an example"
    record = "question (a text) and word (a text)"
    metrics = (Metric("said", "share of answers with the word"),)
    options: ClassVar = {"tokens": Option(8, least=1)}

    def read(self, record, file):
        if not record.get("question") or not record.get("word"):
            raise BadRecord("E102", "the question or the word is missing")
        return record.get("group", ""), record

    def measure(self, examples, model, shots):
        asked = [example.content["question"] for example in examples]
        answers = model.answers(asked, max_new_tokens=self.settings["tokens"])
        return [
            Outcome(
                {"said": float(example.content["word"] in answer.text)},
                {"question": example.content["question"], "answer": answer.text},
            )
            for example, answer in zip(examples, answers, strict=True)
        ]
