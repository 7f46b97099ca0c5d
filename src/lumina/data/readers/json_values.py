"""The values of a JSON text, read in pieces."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from lumina.data.readers.encodings import UTF_8
from lumina.data.readers.lines import whole_file
from lumina.data.records import BadRecord, each_field_once

_BLOCK = 2**16
_DECODER = json.JSONDecoder(object_pairs_hook=each_field_once)
_TOKEN = re.compile(r'[{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
"""A bracket or a string; its group is empty where the string goes on."""
_REST = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+("?)', re.DOTALL)
"""What is left of a string."""
_SCALAR = re.compile(r"[^\s,\]}]*")
_SPACE = re.compile("[\\s\ufeff]*")
_NO_TEXT = re.compile("[\udc80-\udcff]")
"""What bytes that are not UTF-8 become."""


class JsonValues:
    """Reads one value after another.

    Args:
        handle: the bytes.
        limit: the most characters of one value.
        encoding: of the bytes.
    """

    def __init__(self, handle: BinaryIO, limit: int, encoding: str = UTF_8) -> None:
        self.handle = handle
        self.encoding = encoding
        self.limit = limit
        self.decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self.text = ""
        self.at = 0
        self.begun = False
        self.ended = False
        self.no_text = False  # a byte of what is read is in no character

    def _more(self, most: int = _BLOCK) -> bool:
        """Read on; whether there was more."""
        if self.ended:
            return False
        data = self.handle.read(most)
        if not self.begun and data:
            self.begun = True
            if (wrong := whole_file(data, self.encoding)) is not None:
                raise wrong
            data = data.removeprefix(codecs.BOM_UTF8)
            if not data:
                return self._more()
        self.ended = not data
        new = self.decoder.decode(data, final=self.ended)
        self.no_text = self.no_text or _NO_TEXT.search(new) is not None
        self.text = self.text[self.at :] + new
        self.at = 0
        return bool(new) or not self.ended

    def peek(self) -> str:
        """The next character that is no white space; none at the end."""
        while True:
            found = _SPACE.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def expect(self, char: str) -> None:
        """Pass over a character.

        Raises:
            BadRecord: another one is there.
        """
        found = self.peek()
        if found != char:
            there = repr(found) if found else "the end of the file"
            raise BadRecord("E101", f"not JSON: expected {char!r}, found {there}")
        self.at += 1

    def end(self) -> None:
        """Pass over white space to the end.

        Raises:
            BadRecord: something else is there.
        """
        found = self.peek()
        if found:
            raise BadRecord("E101", f"not JSON: {found!r} after its end")

    def array(self) -> Iterator[Any]:
        """The items of an array."""
        self.expect("[")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self.at += 1
                return
            self.expect(",")

    def value(self) -> Any:
        """The next value; a `BadRecord` for one that cannot be used.

        Raises:
            BadRecord: it cannot be told where the value ends.
        """
        found = self.whole()
        if found is None and self.too_long:
            self._pass_over()
            return self.over_limit()
        return found

    def over_limit(self) -> BadRecord:
        """What is wrong with a value that is over the limit."""
        return BadRecord(
            "E101",
            f"the record is over the limit of {self.limit:,} (max_record_bytes)",
        )

    too_long = False

    def whole(self) -> Any:
        """The next value, as `value`.

        Where it is over the limit, the answer is None, `too_long` is set, and the value
        is still to be read.
        """
        self.peek()
        self.too_long = False
        more = _BLOCK
        while True:
            wrong: BadRecord
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except BadRecord as bad:
                wrong = bad
            except json.JSONDecodeError as error:
                near = self.text[max(self.at, error.pos - 20) : error.pos + 20]
                wrong = BadRecord("E101", f"not JSON: {error.msg} in {near!r}")
            except (ValueError, RecursionError) as error:
                wrong = BadRecord("E101", f"not usable JSON: {error}")
            else:
                # A number at the end of what was read may go on.
                if end < len(self.text) or self.ended or self.text[end - 1] in '}]"':
                    return self._checked(value, end)
                wrong = BadRecord("E101", "not JSON: the file ends within a value")
            end = self._end()
            if end:
                self.at = end
                return wrong
            if len(self.text) - self.at > self.limit:
                self.too_long = True
                return None
            if not self._more(more):
                raise BadRecord("E101", "not JSON: the file ends within a value")
            more = min(2 * more, max(self.limit, _BLOCK))

    def _checked(self, value: Any, end: int) -> Any:
        """The value that ends there, if it is text and within the limit."""
        if end - self.at > self.limit:
            self.too_long = True
            return None
        start, self.at = self.at, end
        if self.no_text and (found := _NO_TEXT.search(self.text, start, end)):
            byte = ord(found[0]) - 0xDC00
            return BadRecord(
                "E103", f"not {self.encoding.upper()} (0x{byte:02x}) in the record"
            )
        return value

    def _end(self) -> int:
        """Where the next value ends by its brackets; 0 where that is not read yet."""
        depth, at = 0, self.at
        if self.at < len(self.text) and self.text[self.at] not in '{["':
            found = _SCALAR.match(self.text, at)
            end = found.end() if found else at
            return end if at < end < len(self.text) or self.ended else 0
        while token := _TOKEN.search(self.text, at):
            first = token[0][0]
            if first == '"' and not token[1]:
                return 0
            depth += (first in "{[") - (first in "}]")
            at = token.end()
            if depth <= 0:
                return at
        return 0

    def _pass_over(self) -> None:
        """Pass over a value without holding it.

        Raises:
            BadRecord: the file ends before.
        """
        while self.text[self.at : self.at + 1] not in ("{", "[", '"'):
            found = _SCALAR.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text) or not self._more():
                return
        depth, within = 0, False
        while True:
            token = (_REST.match if within else _TOKEN.search)(self.text, self.at)
            if token is None or not (token[0] or within):
                self.at = len(self.text)
            elif (within or token[0][0] == '"') and not token[1]:
                # The string goes on; of an escape, all of it is to be seen.
                within = True
                self.at = token.end()
            else:
                bracket = "" if within else token[0][0]
                within = False
                depth += (bracket in ("{", "[")) - (bracket in ("}", "]"))
                self.at = token.end()
                if depth <= 0:
                    return
                continue
            if not self._more():
                raise BadRecord("E101", "not JSON: the file ends within a value")
