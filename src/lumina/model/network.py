"""The whole network: a backbone and the objective that owns head and loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor, nn

from lumina.batch import IGNORE, Batch
from lumina.errors import LuminaError
from lumina.model.cache_protocol import Cache, shapes_follow_data
from lumina.model.declared import declared
from lumina.model.initial import initial_value
from lumina.model.interface import LossSums, Output, Scores
from lumina.model.kinds.kind import Kind
from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from lumina.data.tokenizer import Tokenizer


class Network(nn.Module):
    """Backbone and objective. Tied embeddings live in the backbone, once.

    Args:
        spec: the resolved shape.
        kinds: the kinds that the model is of.
        backbone: `backbone(batch, carry=None, cache=None)` gives an `Output`.
        objective: `objective(output, batch, tied)` gives `LossSums`, and
            `objective.logits(hidden, tied)` scores; see `lumina.model.objective`.

    Attributes:
        tokenizer: the one it was trained with, where `lumina.load` made the network.
    """

    tokenizer: Tokenizer | None = None

    def __init__(
        self,
        spec: ModelSpec,
        kinds: Sequence[Kind],
        backbone: nn.Module,
        objective: nn.Module,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.kinds = tuple(kinds)
        self.backbone: Any = backbone
        self.objective: Any = objective

    @property
    def recurrent(self) -> bool:
        """Whether a training step hands its carry to the next (`carry_protocol`)."""
        return bool(getattr(self.backbone, "recurrent", False))

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks that have a head each; none with a single head."""
        return self.objective.names if hasattr(self.objective, "of_task") else ()

    @property
    def _tied(self) -> Tensor | None:
        """The head's weight where it is the embedding's."""
        return self.backbone.embedding.weight if self.spec.tie_embeddings else None

    @property
    def output_matrix(self) -> Tensor:
        """The matrix [padded vocabulary, D] of a language model's only head."""
        return self.objective.matrix(self._tied)  # type: ignore[no-any-return]

    @overload
    def forward(
        self, batch: Batch, carry: Any = None, *, cache: Any = None
    ) -> tuple[LossSums, dict[str, Tensor]]: ...

    @overload
    def forward(
        self,
        batch: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        task_id: int | str | None = None,
        attention_mask: Tensor | None = None,
    ) -> Scores: ...

    def forward(
        self,
        batch: Batch | Tensor | None = None,
        carry: Any = None,
        *,
        input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        task_id: int | str | None = None,
        cache: Any = None,
        attention_mask: Tensor | None = None,
    ) -> tuple[LossSums, dict[str, Tensor]] | Scores:
        """Loss sums of a batch, which is how it trains; or the scores of token ids.

        `network(batch)` gives the loss sums and the backbone's auxiliary sums.
        `network(input_ids)` and `network(input_ids=..., labels=...)` give `Scores`;
        every row is one text.

        Args:
            batch: what to learn from; or, in place of `input_ids`, token ids.
            carry: for recurrent models, the `LossSums.carry` of the step before.
            input_ids: [B, S] int64.
            labels: [B, S] int64, as transformers takes them: the same tokens as
                `input_ids`, not shifted, and -100 where there is no loss. Of puzzles,
                the solutions.
            task_id: the task of the head, in a model of several: its name or number.
            cache: keys of earlier chunks of the rows that `batch` continues.
            attention_mask: [B, S], as tokenizers of transformers give it beside the
                ids; all ones, because a row is one text without padding.

        Raises:
            LuminaError: E005 for a mask with zeros, for ids or labels of another shape
                or that are no tokens of this model, and where no task, or none of this
                model's, is named.
        """
        if isinstance(batch, Batch):
            held = {} if cache is None else {"cache": cache}
            losses = self._losses(self.backbone(batch, carry, **held), batch)
            return losses, losses.aux
        if batch is not None and input_ids is not None:
            raise LuminaError("E005", "input_ids are given twice", "give them once")
        ids = batch if input_ids is None else input_ids
        if attention_mask is not None and not bool(attention_mask.all()):
            raise LuminaError(
                "E005",
                "attention_mask has zeros, and rows with padding are not computed here",
                "give texts of one length, or one at a time",
            )
        return self._scores(ids, labels, task_id)

    def _check_range(self, name: str, whole: Tensor, ids: Tensor) -> None:
        """Refuse what a GPU answers with an assertion that ends the process."""
        if not whole.numel():
            raise LuminaError(
                "E005", f"{name} are {list(whole.shape)}: no token", "give at least one"
            )
        if torch.compiler.is_compiling() or not ids.numel():
            return
        least, most = (int(value) for value in ids.aminmax())
        if least < 0 or most >= self.spec.vocab_size:
            wrong = least if least < 0 else most
            raise LuminaError(
                "E005",
                f"{name} hold {wrong}, and the model knows the tokens 0 to "
                f"{self.spec.vocab_size - 1}",
                "encode with the tokenizer that lumina.load returns; labels may "
                "also be -100, for no loss",
            )

    def _scores(
        self, input_ids: Tensor | None, labels: Tensor | None, task_id: int | str | None
    ) -> Scores:
        """Logits, and the mean loss where there are labels, of one forward pass."""
        if not isinstance(input_ids, Tensor) or input_ids.dim() != 2:
            shape = (
                list(input_ids.shape) if isinstance(input_ids, Tensor) else input_ids
            )
            raise LuminaError(
                "E005",
                f"input_ids are {shape}, not a tensor of [rows, tokens]",
                "a single text is torch.tensor([tokenizer.encode(text)])",
            )
        self._check_range("input_ids", input_ids, input_ids)
        if labels is not None and labels.shape != input_ids.shape:
            raise LuminaError(
                "E005",
                f"labels have shape {list(labels.shape)}, input_ids "
                f"{list(input_ids.shape)}",
                "give a label for each token: the token itself, or -100 for no loss",
            )
        if labels is not None:
            self._check_range("labels", labels, labels[labels != IGNORE])
        if labels is not None and getattr(self.objective, "predicts_next", True):
            last = torch.full_like(labels[:, :1], IGNORE)
            labels = torch.cat([labels[:, 1:], last], dim=1)
        batch = Batch.from_rows(input_ids, labels)
        output = self.backbone(batch, None)
        logits = self._logits(output.hidden, task_id)
        if labels is None:
            return Scores(logits)
        if task_id is not None:
            batch = self.objective.of_task(batch, task_id)
        losses = self._losses(output, batch)
        return Scores(logits, losses.loss_sum / losses.weight_sum)

    def _logits(self, hidden: Tensor, task_id: int | str | None) -> Tensor:
        """Scores by the only head, or by that of a task."""
        if task_id is None:
            return self.objective.logits(hidden, self._tied)  # type: ignore[no-any-return]
        if not hasattr(self.objective, "of_task"):
            raise LuminaError(
                "E005",
                f"there is no task {task_id!r}: the model has one head",
                "leave the task out",
            )
        return self.objective.logits(hidden, self._tied, task_id)  # type: ignore[no-any-return]

    def _losses(self, output: Output, batch: Batch) -> LossSums:
        """Loss sums, with all auxiliary sums, of what the backbone made of a batch."""
        losses: LossSums = self.objective(output, batch, self._tied)
        losses.carry = output.carry
        losses.aux = output.aux | losses.aux
        for kind in self.kinds:
            kind.settle(self.spec, losses, batch)
        return losses

    def logits(
        self,
        input_ids: Tensor,
        cache: Cache | None = None,
        last_only: bool = False,
        task_id: int | str | None = None,
    ) -> Tensor:
        """Scores of the next token after every position.

        Args:
            input_ids: [B, S] int64; with a cache, only the new tokens.
            cache: keys and values of earlier tokens; receives the new ones.
            last_only: only for the last position, which spares a long prompt's logits.
            task_id: the task of the head, in a model of several: its name or number.

        Returns:
            [B, S, vocab_size] float32, or [B, 1, vocab_size].

        Raises:
            LuminaError: E005 where no task, or none of this model's, is named; E002
                past the last of learned positions.
        """
        batch = Batch.from_rows(input_ids)
        if cache is not None:
            batch = replace(batch, position_ids=cache.positions(input_ids))
            table = getattr(self.backbone, "position_embedding", None)
            if table is not None and shapes_follow_data(cache):
                columns = cache.length + input_ids.shape[1]
                table.check(batch.position_ids, columns)
        hidden = self.backbone(batch, cache=cache).hidden
        if last_only:
            hidden = hidden[:, -1:]
        return self._logits(hidden, task_id)

    def initial_value(self, name: str, seed: int) -> Tensor:
        """What parameter or buffer `name` starts as: float32, CPU, whole."""
        return initial_value(declared(self.spec)[name], seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> Network:
        """Fill every (unsharded) weight and buffer; returns the network itself."""
        for name, parameter in self.named_parameters():
            parameter.copy_(self.initial_value(name, seed))
        self.reset_buffers()
        for kind in self.kinds:
            kind.initialise(self)
        return self

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """Give every buffer its first value, after `to_empty`.

        Such as the loads of routers; rotary tables are computed in each forward pass.
        """
        known = declared(self.spec)
        for name, buffer in self.named_buffers():
            if name in known:  # matrices in few bits have no declaration of their own
                buffer.copy_(self.initial_value(name, seed=0))
