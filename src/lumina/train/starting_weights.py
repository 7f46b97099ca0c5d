"""The weights that a new run, or a phase of one, begins with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lumina.config import Config
from lumina.config.task_paths import task_names
from lumina.data.kind import Rows
from lumina.errors import LuminaError
from lumina.features.few_bits import asked_base_storage
from lumina.model.kinds.table import why_not
from lumina.plan.decisions import asked_for
from lumina.plan.plan import Plan
from lumina.state.base_model import BaseModel, open_base_model
from lumina.state.puzzle_vectors import fitted_vectors
from lumina.state.reader import CheckpointReader
from lumina.state.task_heads import with_heads
from lumina.state.weights import Weights, open_weights
from lumina.train.adapter_training import begun_on, gone_on
from lumina.train.expert_training import with_expert
from lumina.train.from_base_model import borrowed, borrows, with_its_tokenizer
from lumina.train.shape_from_weights import adopted


@dataclass
class StartingWeights:
    """Weights that were trained before; none where a run begins with random values.

    Attributes:
        weights: what is begun with, or None.
        base: the language model that `weights` borrow from, or None.
        held: names of the tensors in the files of `weights`, before tensors were added.
        length_open: the weights were opened, and nobody chose the length of rows.
    """

    weights: Weights | None = None
    base: BaseModel | None = None
    held: frozenset[str] = frozenset()
    length_open: bool = False

    @classmethod
    def opened(cls, config: Config) -> tuple[StartingWeights, Config]:
        """Open what `--init-from` names.

        Returns:
            The weights, and the settings with the shape, the tokenizer and the expert
            that follow from them.

        Raises:
            LuminaError: what the weights or their folder lack, with its code.
        """
        path = config.train.init_from
        if not path:
            return cls(), config
        if borrows(config, path):
            base = open_base_model(path)
            return cls(base=base), with_its_tokenizer(config, base)
        weights = open_weights(path, piecewise=bool(asked_base_storage(config)))
        held = frozenset(weights.source.names())
        if config.train.expert_id is not None:
            config, weights = with_expert(config, weights)
        weights = with_heads(weights, task_names(config))
        length_open = not asked_for(config, "seq_length")
        return cls(weights, None, held, length_open), adopted(config, weights)

    @classmethod
    def left_by(cls, checkpoint: Path) -> StartingWeights:
        """Those that the phase before has left."""
        weights = open_weights(str(checkpoint))
        return cls(weights, None, frozenset(weights.source.names()))

    @property
    def tuned(self) -> Weights | None:
        """The weights of a language model that is tuned; None: none is."""
        if self.weights is None or why_not(self.weights.spec, "fine_tuning"):
            return None
        return self.weights

    def fit_puzzles(self, rows: Rows) -> str | None:
        """Give the weights as many vectors as there are puzzles.

        Returns:
            What was done, in words; None where nothing was.

        Raises:
            LuminaError: E002 for puzzles of other tokens than the weights know.
        """
        if self.weights is None or rows.num_puzzles is None:
            return None
        known, found = self.weights.spec.vocab_size, rows.vocab_size
        if known != found:
            raise LuminaError(
                "E002",
                f"the weights in {self.weights.path} know puzzles of {known} tokens, "
                f"these have {found}",
                "name puzzles of the kind that the weights were trained on",
            )
        self.weights, summary = fitted_vectors(self.weights, rows.num_puzzles)
        return f"starts from {summary}"

    def keep_context(self, plan: Plan) -> Plan:
        """The Plan in which tuned weights can read as much as they could before."""
        weights = self.tuned
        if weights is None:
            return plan
        context, length = weights.spec.context_length, plan.spec.seq_length
        scaled = (weights.spec.rope_scaling, weights.spec.rope_factor) != (
            plan.spec.rope_scaling,
            plan.spec.rope_factor,
        )
        if context < length and not scaled:
            warning = (
                f"rows of {length:,} tokens are longer than the {context:,} that the "
                "model was made for (max_position_embeddings): its positions beyond "
                "mean nothing yet; use a --seq-length of at most that, or "
                "--rope-scaling"
            )
            return plan.replace(warnings=(*plan.warnings, warning))
        if context <= length:
            return plan
        return plan.replace(spec=replace(plan.spec, context=context))

    def put_on_base(
        self, plan: Plan, reader: CheckpointReader | None, moved_to: str | None
    ) -> Plan:
        """The Plan that names the base of its adapters, if its model has any.

        The weights of a new run get the adapters' first values.

        Args:
            plan: of the run.
            reader: the checkpoint that the run goes on with, if there is one.
            moved_to: where the base of that checkpoint's adapters is now, if it moved.
        """
        if not plan.spec.adapters:
            return plan
        if reader is not None:
            return gone_on(plan, reader, moved_to)
        if self.weights is not None:
            plan, self.weights = begun_on(plan, self.weights, self.held)
        return plan

    def borrow(self, plan: Plan, config: Config) -> str | None:
        """Make the first values of a model that borrows from another; what it took."""
        if self.base is None:
            return None
        self.weights, summary = borrowed(plan, config, self.base)
        return summary
