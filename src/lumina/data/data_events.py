"""Events about the preparation of data that a user should know of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.data.documents import Skipped
from lumina.data.files import counted, tell_left_out, tell_repeated
from lumina.data.long_conversations import long_in_words
from lumina.data.sources.find import named_files
from lumina.data.sources.members import DATA
from lumina.data.split import eval_share
from lumina.data.store import TokenStore
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

NO_EVAL = "nothing is held out"

_MUCH = 64 << 10  # bytes of a document that are worth a word about what is held out
_TOLD = 20  # skipped records that get an event of their own

OnEvent = Callable[..., None]
"""Called as on_event(kind=, severity=, code=, message=, **data)."""


def skipped_event(record: Skipped) -> dict[str, Any]:
    """The event about a record that is left out."""
    where = record.source
    if record.line is not None:
        where += f", line {record.line}"
    return {
        "kind": "data_skipped",
        "severity": "warning",
        "code": record.code,
        "message": f"{where}: {record.reason}",
        "source": record.source,
        "line": record.line,
    }


def ascii_event(removed: Mapping[str, int]) -> dict[str, Any]:
    """The event about characters that `ascii_only` took out."""
    message = f"{removed['characters']:,} characters beyond ASCII were taken out"
    if removed.get("texts"):
        message += f", and {removed['texts']:,} texts of such characters were left out"
    return {
        "kind": "data_ascii_only",
        "severity": "warning",
        "code": None,
        "message": f"{message} (--ascii-only)",
        "counts": dict(removed),
    }


class DataEvents:
    """Events about what was found and left out; none without an `OnEvent`.

    Args:
        on_event: is called with each event.
    """

    def __init__(self, on_event: OnEvent | None) -> None:
        self._on_event = on_event

    def event(
        self, kind: str, severity: str, code: str | None, message: str, **data: Any
    ) -> None:
        """One event."""
        if self._on_event is not None:
            self._on_event(
                kind=kind, severity=severity, code=code, message=message, **data
            )

    def damage(self, error: LuminaError) -> None:
        """A damaged folder of the cache, which is made again."""
        self.event("data_cache_damaged", "warning", error.code, error.message)

    def cut(self, longest: int, length: int) -> None:
        """Conversations that are longer than a row and are not divided."""
        self.event(
            "data_long_conversations",
            "warning",
            None,
            "conversations longer than a row are cut where it ends, and go on in "
            "another row without their question (--long-conversations cut); the "
            f"longest has {longest:,} tokens",
            mode="cut",
            longest=longest,
            row=length,
        )

    def skipped(self, skipped: list[Skipped]) -> None:
        """An event for each of the first records that are left out."""
        for record in skipped[:_TOLD]:
            self.event(**skipped_event(record))

    def forms(self, forms: list[Any], example: str | None) -> None:
        """The forms of the records of each source, and one as it is trained on.

        Args:
            forms: (source, records of each form by its name).
            example: the first document, with what bears loss in brackets.
        """
        for source, found in forms:
            told = ", ".join(f"{name} ({n:,})" for name, n in found.items())
            self.event(
                "data_forms",
                "info" if len(found) == 1 else "warning",
                None,
                f"{source}: records of the form {told}"
                if len(found) == 1
                else f"{source}: records of several forms, {told}; --format states one",
                source=source,
                forms=found,
            )
        if example is not None:
            self.event(
                "data_example",
                "info",
                None,
                f"the first document as it is trained on, with loss on ⟦…⟧: {example}",
            )

    def prepared(
        self,
        config: Config,
        stats: dict[str, Any],
        skipped: list[Skipped],
        evaluation: TokenStore | None,
    ) -> None:
        """Events about what was left out, or will not be learned."""
        self.skipped(skipped)
        total = stats["skipped"]
        if total > _TOLD:
            self.event(
                "data_skipped",
                "warning",
                None,
                f"{total} bad records were left out in all",
                count=total,
                codes=stats["skipped_codes"],
            )
        tell_left_out(stats["ignored_files"], self._on_event, DATA)
        tell_repeated(named_files(config.data.train_data), self._on_event, DATA)
        if stats["ignored_fields"]:
            self.event(
                "data_fields_ignored",
                "warning",
                None,
                "fields of the records that nothing reads: "
                f"{counted(stats['ignored_fields'])}; what they say is not trained on",
                counts=stats["ignored_fields"],
            )
        if beyond := stats["conversations_beyond"]:
            listed = ", ".join(
                f"{count:,} beyond --max-conversations-per-{bound}"
                for bound, count in beyond.items()
            )
            self.event(
                "data_conversations_beyond",
                "warning",
                None,
                f"conversations left out: {listed}",
                counts=beyond,
            )
        if stats["ascii_only"]:
            self.event(**ascii_event(stats["ascii_only"]))
        if stats["unknown_tokens"]:
            count = stats["unknown_tokens"]
            self.event(
                "data_unknown_characters",
                "warning",
                None,
                f"{count:,} tokens of the data stand for characters that the tokenizer "
                "has no token for; the model cannot learn them: name another tokenizer "
                "with --tokenizer, or take such characters out of the data",
                count=count,
            )
        if stats["eval_documents_trained_on"]:
            count, of = stats["eval_documents_trained_on"], stats["eval_documents"]
            self.event(
                "eval_data_trained_on",
                "warning",
                None,
                f"{count:,} of the {of:,} documents of the eval data are in the "
                "training data, too: their loss says how well they were learned, not "
                "how the model does on text it has not seen",
                count=count,
            )
        for note in stats["tokenizer_notes"]:
            self.event("tokenizer", "info", None, note)
        if evaluation is None:
            self.event("data_no_eval", "warning", None, NO_EVAL)
        elif not config.data.eval_data:
            self._held_out(config.data.eval_fraction, stats)

    def _held_out(self, asked: float | None, stats: Mapping[str, Any]) -> None:
        """Say that one long document is much more of the text than was asked for."""
        documents = stats["train_documents"] + stats["eval_documents"]
        size = stats["eval_bytes"]
        share = size / max(stats["train_bytes"] + size, 1)
        wanted = eval_share(documents) if asked is None else asked
        if stats["eval_documents"] > 1 or size < _MUCH or share < 1.5 * wanted:
            return
        self.event(
            "data_much_held_out",
            "warning",
            None,
            f"1 of {documents:,} documents is held out, and it is {share:.0%} "
            f"of the text, where {wanted:.0%} is asked for: a document is held out "
            "whole. Cut long texts into several files, name other text with "
            "--eval-data, or learn from all of it with --eval-fraction 0",
            share=round(share, 4),
        )

    def long(self, long: dict[str, Any]) -> None:
        """What became of conversations that are longer than a row."""
        whole = not (long["questions_shortened"] or long["without_system"])
        self.event(
            "data_long_conversations",
            "info" if long["mode"] == "split" and whole else "warning",
            None,
            long_in_words(long),
            **long,
        )
