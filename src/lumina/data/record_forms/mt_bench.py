"""Questions of MT-bench: turns of a user, without an answer to learn."""

from __future__ import annotations

from lumina.data.record_forms.form import Record, UntrainedForm
from lumina.data.record_forms.message import BadRecord, Content, filled, kind_of


class MTBench(UntrainedForm):
    """What a user asks, in several turns."""

    name = "mt_bench"
    about = '{"question_id", "turns": [...]}'
    rank = 43
    marks = ("turns",)
    fields = ("question_id", "turns")
    reason = "it has questions only, and no answer to learn"
    advice = (
        "use it to question a trained model; to train on the questions as plain text, "
        "use --format text --field turns=text"
    )

    def recognises(self, record: Record) -> bool:
        """It has numbered questions."""
        return "turns" in record and "question_id" in record

    def parts(self, record: Record) -> dict[str, Content]:
        """The user's turns."""
        turns = record.get("turns")
        if not isinstance(turns, list):
            raise BadRecord("E102", f"'turns' is {kind_of(turns)}, not a list")
        if not turns:
            raise BadRecord("E105", "'turns' is empty")
        return {
            "": tuple(
                {"role": "user", "content": filled(turn, f"turn {n}")}
                for n, turn in enumerate(turns, 1)
            )
        }


FORM = MTBench()
