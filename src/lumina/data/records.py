"""What one JSON record of a data file means: a text or a conversation.

The forms of records are in `lumina.data.record_forms`; this is what others use of them.
"""

from __future__ import annotations

from lumina.data.record_forms.message import ROLES, BadRecord, Content, Message
from lumina.data.record_forms.reader import (
    RecordReader,
    each_field_once,
    parse_record,
    record_reader,
    unread_fields,
)
from lumina.data.record_forms.turns import read_turns

__all__ = [
    "ROLES",
    "BadRecord",
    "Content",
    "Message",
    "RecordReader",
    "each_field_once",
    "parse_record",
    "read_turns",
    "record_reader",
    "unread_fields",
]
