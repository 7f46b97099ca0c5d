"""Who computes attention: by hardware, packages and sequence length. Imports no torch.

In order of preference: flash3, FlashAttention-3 (Shah et al., 2024, arXiv:2407.08608)
of the package flash-attn-3, put in the place of torch's own kernel; flash2, the
FlashAttention-2 (Dao, 2023, arXiv:2307.08691) that torch has built in, over packed
documents; sdpa, torch's choice of kernel with a mask; reference, plain arithmetic.
blockwise (`lumina.ops.attention.blockwise`) is taken when it is named, and for long
rows with a pattern that no flash kernel knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.plan.decisions import Decisions, source_of

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.model.spec import ModelSpec
    from lumina.plan.environment import Environment

FLASH = ("flash3", "flash2")
"""Best first."""

FLASH3_LENGTH = 1024
"""Rows below this do not choose flash3 by themselves: in its paper's figures it is
ahead of flash2 from about there. Not measured here."""


MASK_LENGTH = 4096
"""With sinks or dilation, longer rows choose blockwise: a mask of all pairs of tokens
takes 32 MiB for a row of this length in 16 bits, and four times as much at each
doubling."""


@dataclass(frozen=True)
class Choice:
    """What computes attention.

    Attributes:
        backend: "flash3", "flash2", "sdpa", "blockwise" or "reference".
        reason: why.
        warning: what was asked for and is not available, with the reason; or "".
    """

    backend: str
    reason: str
    warning: str = ""


def kernel_family(backend: str) -> str:
    """The backend as `lumina.ops.attention` has it: both flash kernels are "varlen"."""
    return "varlen" if backend in FLASH else backend


def choose_attention(
    asked: str,
    source: str,
    machine: Environment,
    spec: ModelSpec,
    dtype: str,
    chunked: bool = False,
    shared_rows: bool = False,
    newest: bool = True,
) -> Choice:
    """The backend asked for, or the best there is.

    Args:
        asked: "auto" or a backend.
        source: where that came from, in words.
        machine: hardware and packages.
        spec: the model; its heads, rows and whether it is causal.
        dtype: of queries, keys and values.
        chunked: rows are trained in chunks.
        shared_rows: several processes share each row.
        newest: flash3 may be chosen where nothing is asked for.
    """
    if chunked:
        return Choice("blockwise", "a chunk attends to the keys of earlier chunks")
    if shared_rows:
        return Choice("blockwise", "keys of each row go round between processes")
    if asked not in ("auto", *FLASH):
        return Choice(asked, source)
    flash = _flash_problem(machine, spec, dtype)
    latest = flash or _flash3_problem(machine)
    if asked == "auto" and not newest:
        latest = latest or "left out by --no-experimental-fa3"
    if asked == "auto" and not latest and spec.seq_length < FLASH3_LENGTH:
        latest = (
            f"rows of {spec.seq_length} are short for it (--attention flash3 has it "
            "all the same)"
        )
    problem = latest if asked == "flash3" else flash
    if asked != "auto" and not problem:
        return Choice(asked, source)
    if flash and spec.beyond_window and spec.seq_length > MASK_LENGTH:
        choice = Choice("blockwise", f"{flash}, and a mask would take much memory")
    elif flash:
        choice = Choice("sdpa", flash)
    elif latest:
        choice = Choice("flash2", f"packed documents without a mask; flash3: {latest}")
    else:
        choice = Choice("flash3", f"packed documents without a mask; {_why3(machine)}")
    if asked == "auto":
        return choice
    return Choice(
        choice.backend,
        f"{asked} was asked for ({source}): {problem}",
        f"attention {asked} is not available here: {problem}; {choice.backend} takes "
        "its place",
    )


def decide_attention(
    config: Config, machine: Environment, spec: ModelSpec, decisions: Decisions
) -> None:
    """Decide `Plan.attention` from the options that name a kernel."""
    asked, leaf = config.system.attention, "attention"
    if config.kernels.experimental_fa3:
        asked, leaf = "flash3", "experimental_fa3"
    choice = choose_attention(
        asked,
        source_of(config, leaf),
        machine,
        spec,
        decisions.values["compute_dtype"],
        chunked=config.long_rows.use_chunked_training,
        shared_rows=decisions.values["context_parallel"] > 1,
        newest=config.kernels.experimental_fa3 is not False,
    )
    decisions.decide("attention", choice.backend, choice.reason)
    if choice.warning:
        decisions.warn(choice.warning)
        decisions.fall_back(choice.warning)


def _flash_problem(machine: Environment, spec: ModelSpec, dtype: str) -> str:
    """Why no flash kernel can be used, or ""."""
    if spec.solves_puzzles:
        return "flash attention here is causal, a reasoner is not"
    if spec.beyond_window:
        return "flash attention has no sinks and no dilation"
    if machine.device != "cuda":
        return "flash attention needs CUDA"
    if dtype == "float32":
        return "flash attention needs 16-bit types"
    if (machine.capability or (0, 0)) < (8, 0):
        return "flash attention needs compute capability 8.0"
    if spec.head_dim % 8 or spec.head_dim > 256:
        return f"flash attention does not take heads of {spec.head_dim}"
    return ""


def _flash3_problem(machine: Environment) -> str:
    """Why flash3 cannot be used where flash2 can, or ""."""
    if machine.capability is None or machine.capability[0] != 9:
        major, minor = machine.capability or (0, 0)
        return f"needs compute capability 9 (Hopper), this is {major}.{minor}"
    return "" if machine.flash3 else machine.flash3_detail or "its package is missing"


def _why3(machine: Environment) -> str:
    return f"{machine.flash3_detail or 'its package'} on Hopper"
