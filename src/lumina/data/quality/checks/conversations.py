"""How long conversations are, and whether they have an answer at the end."""

from __future__ import annotations

from lumina.data.quality.check import Check, Item, Options, Result, distribution


class Conversations(Check):
    """Turns of each conversation; the last one is to be the assistant's."""

    name = "conversations"
    title = "length and end of conversations"
    rank = 6
    statistic = True
    answers = ("no_truncated_conversations",)

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.turns: list[int] = []

    def see(self, item: Item) -> None:
        """Note a conversation that ends without an answer."""
        messages = item.document.messages
        if messages is None:
            return
        self.seen += 1
        self.turns.append(len(messages))
        if not messages or messages[-1]["role"] != "assistant":
            last = messages[-1]["role"] if messages else "nothing"
            self.note(item, f"the last turn is {last}: {item.text[-80:]}")

    def result(self) -> Result:
        """The verdict, with the distribution of the number of turns."""
        if not self.seen:
            return self.not_assessed("there are no conversations")
        numbers, bars = distribution(self.turns)
        message = (
            f"{self.count:,} of {self.seen:,} conversations end without an answer"
            if self.count
            else f"all {self.seen:,} conversations end with an answer"
        )
        return self.made(
            "failed" if self.count else "passed", message, numbers=numbers, bars=bars
        )


CHECK = Conversations
