"""ShareGPT's {"conversations": [{"from", "value"}, ...]}, which FastChat reads, too."""

from __future__ import annotations

from lumina.data.record_forms.messages import Messages


class ShareGPT(Messages):
    """A list of turns under other names."""

    name = "sharegpt"
    about = '{"conversations": [{"from", "value"}, ...]}'
    rank = 21
    turns = "conversations"
    keys = ("from", "value")


FORM = ShareGPT()
