"""FlashAttention-3 in the place of torch's own flash kernel, for the whole process.

torch has a switch for it (a prototype; in 2.13, older ones may lack it): the package
flash-attn-3 then answers wherever FlashAttention-2 would, in `varlen_attn` and in
SDPA, forwards and backwards. Nothing in the model changes.
"""

from __future__ import annotations

import importlib

from torch.nn import attention

from lumina.errors import LuminaError
from lumina.packages import installed

PACKAGE = "flash_attn_interface"
"""The module that flash-attn-3 installs."""

NAME = "FA3"
"""What torch calls it."""

_ours = False


def found() -> tuple[bool, str]:
    """Whether it can be put in place, and what was found or is missing.

    Loads the package, so that one built for another torch is seen here.
    """
    known: list[str] = getattr(attention, "list_flash_attention_impls", list)()
    if NAME not in known:
        return False, "this torch has no place for it"
    if not installed(PACKAGE):
        return False, f"the package flash-attn-3 ({PACKAGE}) is not installed"
    try:
        importlib.import_module(PACKAGE)
    except Exception as error:  # whatever a broken build raises
        return False, f"{PACKAGE} does not load: {type(error).__name__}: {error}"
    return True, PACKAGE


def use(wanted: bool) -> None:
    """Put FlashAttention-3 in place, or torch's own kernel back.

    Raises:
        LuminaError: E003 where torch refuses it.
    """
    global _ours
    if wanted == _ours:
        return
    if not wanted:
        attention.restore_flash_attention_impl()
        _ours = False
        return
    try:
        attention.activate_flash_attention_impl(NAME)
    except (ImportError, RuntimeError, ValueError) as error:
        raise LuminaError(
            "E003",
            f"attention flash3 cannot be put in place: {error}",
            "use --attention flash2, or install flash-attn-3 for this torch",
        ) from error
    _ours = True
