"""A frozen copy of a program's model, whose scores training stays near.

The copy has the weights that the run, or its phase, began with. Before each forward
pass it reads the rows of the base text, and its hidden states go with the batch to the
objective (`model/objective/distilled.py`), which compares the two models' scores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lumina.assemble.compiling import compile_blocks
from lumina.assemble.features import build_features
from lumina.assemble.logical import join_fused, logical_names
from lumina.batch import BaseOutputs, Batch
from lumina.errors import LuminaError
from lumina.model.declared import declared
from lumina.model.network import Network

if TYPE_CHECKING:
    from lumina.assemble.program import Program

SLOT = "base_model"
"""The slot of a State that holds the frozen copy."""

BASE_SOURCE = 0
"""The number of the source that is the base text: the first one."""


class FrozenModel:
    """The copy, whole on every rank, in the type that the program computes in.

    Args:
        program: what it is a copy of; gives shape, device and types.
        network: as the program's was built, on the meta device.
        exact: parameters that stay float32.
    """

    def __init__(
        self, program: Program, network: Network, exact: frozenset[str]
    ) -> None:
        plan = program.plan
        self.network = network.requires_grad_(False).eval()
        self.pieces = program.pieces
        backbone = network.backbone
        backbone.compute_dtype = program.compute_dtype
        build_features(network, plan.replace(gradient_checkpointing="none"))
        # A graph is made for one shape, so a compiled copy reads all rows.
        self._all_rows = plan.compile
        if plan.compile:
            compile_blocks(backbone, plan.spec)
        for name, parameter in network.named_parameters():
            if name not in exact:
                parameter.data = parameter.data.to(program.compute_dtype)
        network.to_empty(device=program.device)
        network.reset_buffers()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What has a value of its own: parameters and saved buffers, by name."""
        yield from self.network.named_parameters()
        saved = declared(self.network.spec)
        for name, buffer in self.network.named_buffers():
            if name in saved and saved[name].saved:
                yield name, buffer

    @torch.no_grad()
    def fill(self, read: Callable[[str], Tensor]) -> None:
        """Give every tensor its value.

        Args:
            read: logical name -> the whole tensor, on the CPU.
        """
        for name, tensor in self.tensors():
            tensor.copy_(join_fused(name, self.pieces, read))

    def restore(self, held: frozenset[str], read: Callable[[str], Tensor]) -> None:
        """Take the copy of a checkpoint; where it holds none, the copy stays as it is.

        Args:
            held: the logical names that the checkpoint holds.
            read: as of `fill`.

        Raises:
            LuminaError: E303 for a copy with a part missing.
        """
        if not held:
            return
        wanted = {
            logical
            for name, _ in self.tensors()
            for logical in logical_names(name, self.pieces)
        }
        if missing := sorted(wanted - held):
            raise LuminaError(
                "E303",
                f"the checkpoint's copy of the base model lacks {missing[:5]}",
                "go on from another checkpoint of the run",
            )
        self.fill(read)

    @torch.no_grad()
    def beside(self, batch: Batch, rows: int) -> Batch:
        """The batch with what the copy makes of its first rows.

        Args:
            batch: on the device.
            rows: those of the base text, which come first.
        """
        if not rows:
            return batch
        read = batch if self._all_rows else batch.first(rows)
        hidden = self.network.backbone(read, None).hidden[:rows]
        return replace(
            batch, base_outputs=BaseOutputs(hidden, self.network.output_matrix)
        )


def rows_of_base(batch: Batch) -> int:
    """The rows of a batch, which is still on the host, that are of the base text."""
    assert batch.source_ids is not None, "the rows of a mixture have sources"
    return int((batch.source_ids == BASE_SOURCE).sum())
