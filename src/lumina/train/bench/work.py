"""What two trainers do in a comparison: the same weights, the same rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from lumina.model.spec import ModelSpec
from lumina.plan.plan import Plan
from lumina.state.tensor_file import write_tensors

WORK, ROWS, LOSSES, MODEL = (
    "work.json",
    "rows.safetensors",
    "losses.safetensors",
    "model",
)
"""In the folder of a comparison: what is done; the rows; the reference's losses of the
first ones; the weights in Hugging Face's format."""


@dataclass(frozen=True)
class Work:
    """What is done, as the processes of a comparison read it.

    Attributes:
        folder: holds the weights and the rows.
        plan: Lumina's.
        plugins: files that register peers or parts.
        sharpness: what matrices are multiplied by while losses are compared: a power
            of two, so that they are afterwards what they were. First weights are so
            small that attention hardly looks anywhere, and a wrong angle or mask
            hardly shows; so multiplied, every matrix keeps the size of what it is
            given.
    """

    folder: Path
    plan: Plan
    plugins: tuple[str, ...] = ()
    sharpness: float = 1.0

    def save(self, rows: Tensor) -> None:
        """Write it.

        Args:
            rows: [seeds, steps, rows of a step, S + 1] int64.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        values = {
            "plan": self.plan.to_dict(),
            "plugins": list(self.plugins),
            "sharpness": self.sharpness,
        }
        (self.folder / WORK).write_text(json.dumps(values))
        write_tensors(self.folder / ROWS, {"rows": rows})

    @staticmethod
    def load(folder: Path) -> Work:
        """Read it."""
        values: dict[str, Any] = json.loads((folder / WORK).read_text())
        plan = Plan.from_dict(values["plan"])
        return Work(folder, plan, tuple(values["plugins"]), values["sharpness"])

    def rows(self, seed: int) -> Tensor:
        """[steps, rows of a step, S + 1] int64 of the seed of that number."""
        with safe_open(str(self.folder / ROWS), framework="pt") as file:
            found: Tensor = file.get_slice("rows")[seed : seed + 1][0]
        return found

    @property
    def model(self) -> Path:
        """The folder of the weights."""
        return self.folder / MODEL


def sharpness_of(spec: ModelSpec) -> float:
    """The power of two that brings first weights to 1 / sqrt(width), 1 at least."""
    here = spec.init_std * math.sqrt(spec.hidden_size)
    return float(2 ** max(0, round(-math.log2(max(here, 1e-6)))))


@contextmanager
def sharpened(module: nn.Module, factor: float) -> Iterator[None]:
    """Matrices multiplied by a power of two while it is entered."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    with torch.no_grad():
        for matrix in matrices:
            matrix.mul_(factor)
        try:
            yield
        finally:
            for matrix in matrices:
                matrix.div_(factor)


def halves(rows_bs: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and labels [B, S] of rows [B, S + 1]."""
    return rows_bs[:, :-1].contiguous(), rows_bs[:, 1:].contiguous()


def save_losses(work: Work, plain_bs: Tensor, sharp_bs: Tensor) -> None:
    """The reference's losses of the tokens of the first rows."""
    losses = {"plain": plain_bs, "sharp": sharp_bs}
    write_tensors(work.folder / LOSSES, {n: t.cpu().float() for n, t in losses.items()})


def load_losses(work: Work) -> tuple[Tensor, Tensor]:
    """The inverse of `save_losses`: of the weights as they are, and sharpened."""
    with safe_open(str(work.folder / LOSSES), framework="pt") as file:
        return file.get_tensor("plain"), file.get_tensor("sharp")


def exact_products() -> None:
    """Let float32 products be in float32."""
    torch.set_float32_matmul_precision("highest")
