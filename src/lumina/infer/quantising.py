"""How the large matrices of an exported folder come to their few bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.calibrated import Calibrated, OnBlock, calibrated
from lumina.infer.calibration_data import calibration_rows
from lumina.infer.load import filled_network, find_device
from lumina.ops.gptq.coded import Grid
from lumina.state.huggingface.written import EightBits, GptqStored, Stored
from lumina.state.weights import Weights

BITS = {None: (8,), "gptq": (2, 3, 4, 8)}
"""Method -> bits that its codes may have; None: 8 bits and a scale for each row."""

DAMPING = 0.01
"""Of the mean diagonal of a Hessian, as in the paper."""

_ELSEWHERE = {
    "bnb": "bitsandbytes puts weights into few bits as it loads them: export without "
    "--quantize, and load with its options or train with --load-in-4bit",
    "quanto": "it is a way to train: train with --quantization-method quanto, then "
    "export with --quantize alone",
}
"""Methods of training that no folder is written with, and what to do instead."""


@dataclass(frozen=True)
class Quantising:
    """The choices for few bits.

    Attributes:
        method: None, for 8 bits and a scale for each row, or "gptq".
        bits: of a code.
        group_size: of gptq, inputs that share a scale; -1: all of a row.
        act_order: of gptq, take the inputs of the greatest power first.
        symmetric: of gptq, ranges that reach as far below 0 as above it.
        true_sequential: of gptq, code each matrix on the inputs that the coded ones
            before it in its block leave.
        calibration_data: of gptq, text to look at; (): what the run learned from.
        calibration_rows: of gptq, rows of it.
        on_block: called with the blocks that are done, and all.
    """

    method: str | None = None
    bits: int = 8
    group_size: int = 128
    act_order: bool = False
    symmetric: bool = False
    true_sequential: bool = False
    calibration_data: Sequence[str] = ()
    calibration_rows: int = 128
    on_block: OnBlock | None = field(default=None, compare=False)

    def check(self) -> None:
        """Refuse what there is not.

        Raises:
            LuminaError: E005 for methods, bits and sizes; E003 for a method that is
                used elsewhere; E002 for options of gptq without it.
        """
        if self.method in _ELSEWHERE:
            raise LuminaError(
                "E003",
                f"no folder is written with the quantization_method {self.method}",
                _ELSEWHERE[self.method],
            )
        if self.method not in BITS:
            raise LuminaError(
                "E005",
                f"there is no quantization_method {self.method!r}",
                "use gptq, or leave it out for 8 bits",
            )
        if self.bits not in BITS[self.method]:
            known = " or ".join(map(str, BITS[self.method]))
            more = "; --quantization-method gptq has 4, 3, 2 and 8"
            raise LuminaError(
                "E005",
                f"there are no weights of {self.bits} bits",
                f"choose {known}{'' if self.method else more}",
            )
        words = self.group_size % 32 == 0 and self.group_size > 0
        if not (words or self.group_size == -1) or self.calibration_rows < 1:
            raise LuminaError(
                "E005",
                f"group_size {self.group_size} and calibration_rows "
                f"{self.calibration_rows} cannot be used",
                "groups are multiples of 32, or -1 for whole rows; a row at least is "
                "looked at",
            )
        plain = Quantising(bits=self.bits)
        if self.method is None and self != plain:
            raise LuminaError(
                "E002",
                "group_size, act_order, symmetric, true_sequential and calibration "
                "data are those of gptq, which is not named",
                "add --quantization-method gptq, or leave them out",
            )


@dataclass(frozen=True)
class Looked:
    """What GPTQ found on its calibration rows.

    Attributes:
        rows: that were looked at.
        tokens: of them.
        measured_on: what they are of.
        error: mean relative error of the outputs of all matrices.
        nearest_error: the same of numbers rounded each by itself, in the same bits.
        untouched: matrices of experts that no token came to, which are rounded.
    """

    rows: int
    tokens: int
    measured_on: str
    error: float
    nearest_error: float
    untouched: int

    def __str__(self) -> str:
        text = (
            f"gptq on {self.rows} rows ({self.tokens:,} tokens) of {self.measured_on}: "
            f"outputs of matrices are {self.error:.3%} off on average, "
            f"{self.nearest_error:.3%} if each number were rounded by itself"
        )
        if self.untouched:
            text += (
                f"; {self.untouched} matrices of experts saw no token and are rounded"
            )
        return text


def stored_as(
    weights: Weights, tokenizer: Tokenizer, asked: Quantising | None, dtype: torch.dtype
) -> tuple[Stored, Looked | None]:
    """How a folder is written, after whatever has to be looked at.

    Args:
        weights: the model's.
        tokenizer: of the model.
        asked: the choices; None: no few bits.
        dtype: of everything else.

    Raises:
        LuminaError: as `calibrated` and `calibration_rows`.
    """
    if asked is None:
        return Stored(dtype), None
    if asked.method is None:
        return EightBits(dtype), None
    data, rows = asked.calibration_data, asked.calibration_rows
    batches, said = calibration_rows(weights, tokenizer, data, rows)
    network = filled_network(weights, find_device("auto"), torch.float32).eval()
    # A group of all inputs: wider than any row.
    group = asked.group_size if asked.group_size > 0 else _widest(network)
    grid = Grid(asked.bits, group, symmetric=asked.symmetric)
    found = calibrated(
        network,
        batches,
        grid,
        damping=DAMPING,
        act_order=asked.act_order,
        true_sequential=asked.true_sequential,
        on_block=asked.on_block,
    )
    stored = GptqStored(
        dtype,
        found.matrices,
        grid,
        asked.act_order,
        DAMPING,
        whole_rows=asked.group_size < 0,
        true_sequential=asked.true_sequential,
    )
    return stored, _looked(found, len(batches), said)


def _widest(network: torch.nn.Module) -> int:
    """The smallest multiple of 128 that no row of a matrix is longer than."""
    widest = max(p.shape[-1] for p in network.parameters())
    return -(-widest // 128) * 128


def _looked(found: Calibrated, rows: int, said: str) -> Looked:
    errors, others = found.errors.values(), found.nearest_errors.values()
    return Looked(
        rows=rows,
        tokens=found.tokens,
        measured_on=said,
        error=sum(errors) / len(errors),
        nearest_error=sum(others) / len(others),
        untouched=found.untouched,
    )


def facts_of(asked: Quantising, looked: Looked | None) -> dict[str, Any]:
    """What `export.json` says of it."""
    facts: dict[str, Any] = {"bits": asked.bits}
    if asked.method is not None:
        facts |= {
            "quantization_method": asked.method,
            "group_size": asked.group_size,
            "act_order": asked.act_order,
            "symmetric": asked.symmetric,
            "true_sequential": asked.true_sequential,
        }
    if looked is not None:
        facts["calibration"] = dict(vars(looked))
    return facts
