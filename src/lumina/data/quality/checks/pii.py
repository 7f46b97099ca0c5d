"""Personal data that a pattern finds: addresses, numbers. Names are not assessed."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from functools import partial

from lumina.data.quality.check import Check, Item, Mended, Options, Result
from lumina.data.quality.checks.encoding import with_texts
from lumina.data.readers.reader import Document


def _luhn(text: str) -> bool:
    """Whether the digits of a card fulfil Luhn's formula (ISO/IEC 7812-1)."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _iban(text: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 13616: 97 leaves 1)."""
    joined = text.replace(" ", "")
    if not 15 <= len(joined) <= 34:
        return False
    moved = joined[4:] + joined[:4]
    return int("".join(str(int(letter, 36)) for letter in moved)) % 97 == 1


def _address(text: str) -> bool:
    """Whether it is an address of the internet that is not a special one."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return found.is_global


def _phone(text: str) -> bool:
    """Whether it has as many digits as a number of a telephone (ITU-T E.164)."""
    return 8 <= sum(map(str.isdigit, text)) <= 15


def _any(text: str) -> bool:
    return True


_EMAIL = re.compile(
    r"\b[\w.%+-]{1,64}@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,24}\b",
    re.IGNORECASE | re.ASCII,
)
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])")
_IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}"
    r"|[0-9a-fA-F]{1,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w.:])"
)
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}"
    r"(?:[ .-]?\d{2,4}){1,4}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])"
)

KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (_EMAIL, _any),
    "iban": (_IBAN, _iban),
    "card": (_CARD, _luhn),
    "ip": (_IP, _address),
    "phone": (_PHONE, _phone),
}
"""Kind → its pattern, and whether what the pattern finds is one."""


def without_pii(text: str, kinds: Counter[str]) -> str:
    """A text with each find replaced by the name of its kind, as in [EMAIL]."""
    for kind, (pattern, is_one) in KINDS.items():
        if kind == "email" and "@" not in text:
            continue  # where its pattern would look for long
        text = pattern.sub(partial(_replaced, kind, is_one, kinds), text)
    return text


def _replaced(
    kind: str,
    is_one: Callable[[str], bool],
    kinds: Counter[str],
    match: re.Match[str],
) -> str:
    if not is_one(match[0]):
        return match[0]
    kinds[kind] += 1
    return f"[{kind.upper()}]"


class Pii(Check):
    """Email, IBAN, card, address of the internet and telephone, by patterns."""

    name = "pii"
    title = "personal data that patterns find"
    rank = 14

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.kinds: Counter[str] = Counter()

    def see(self, item: Item) -> None:
        """Note a text in which a pattern finds something."""
        self.seen += 1
        before = self.kinds.copy()
        without_pii(item.text, self.kinds)
        new = self.kinds - before
        if new:
            # What was found is not written into a report that may be passed on.
            self.note(item, ", ".join(f"{kind} {n}" for kind, n in new.items()))

    def result(self) -> Result:
        """The verdict, with the number of each kind."""
        message = (
            f"patterns find {self.kinds.total():,} items in {self.count:,} of "
            f"{self.seen:,} texts"
            if self.count
            else f"patterns find nothing in {self.seen:,} texts"
        )
        message += "; names and other personal data are not assessed"
        numbers = {kind: float(n) for kind, n in self.kinds.items()}
        return self.made("found" if self.count else "passed", message, numbers=numbers)

    def mend(self, document: Document) -> Mended | None:
        """Replace what the patterns find."""
        found: Counter[str] = Counter()
        changed = with_texts(document, lambda text: without_pii(text, found))
        if not found:
            return None
        names = ", ".join(f"{kind} {n}" for kind, n in found.items())
        return Mended(changed, f"replaced: {names}")


CHECK = Pii
