"""An answer with a label that says whether it is wanted, as KTO learns from."""

from __future__ import annotations

from lumina.data.record_forms.form import Record, UntrainedForm
from lumina.data.record_forms.message import BadRecord, Content, Message, kind_of
from lumina.data.record_forms.prompt_completion import turns_of
from lumina.data.record_forms.turns import read_turns, turn_keys

LABELS = ("label", "kto_tag")


class Labelled(UntrainedForm):
    """{"prompt", "completion", "label"}, or a conversation with "kto_tag"."""

    name = "labelled"
    about = '{"prompt", "completion", "label": true}'
    rank = 12
    marks = LABELS
    fields = (
        "prompt", "completion", "messages", "conversations", "instruction", "input",
        "output", "system", *LABELS,
    )  # fmt: skip
    reason = "no objective learns from labels of answers yet"
    advice = (
        "to learn all answers, whatever their label, name the form of the rest "
        "(--format prompt, messages, sharegpt or alpaca); or leave such records out "
        "with --data-errors skip"
    )

    def recognises(self, record: Record) -> bool:
        """It has an answer and a label that is true or false."""
        if isinstance(record.get("kto_tag"), bool):
            return True
        asked = "prompt" in record and "completion" in record
        return asked and isinstance(record.get("label"), bool)

    def parts(self, record: Record) -> dict[str, Content]:
        """The conversation, under the name of its label."""
        label = next((record[n] for n in LABELS if record.get(n) is not None), None)
        if not isinstance(label, bool):
            raise BadRecord("E102", f"the label is {kind_of(label)}, not true or false")
        return {"wanted" if label else "unwanted": _turns(record)}


def _turns(record: Record) -> tuple[Message, ...]:
    from lumina.data.record_forms.alpaca import FORM as ALPACA

    for field, keys in (
        ("messages", ("role", "content")),
        ("conversations", ("from", "value")),
    ):
        if (value := record.get(field)) is not None:
            return read_turns(value, field, *turn_keys(value, keys))
    if record.get("instruction") is not None:
        [turns] = ALPACA.parts(record).values()
        assert not isinstance(turns, str)
        return turns
    asked = turns_of(record.get("prompt"), "prompt", "user")
    return (*asked, *turns_of(record.get("completion"), "completion", "assistant"))


FORM = Labelled()
