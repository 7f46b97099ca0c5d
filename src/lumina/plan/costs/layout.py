"""How a training step is laid out, and the bytes that follow from that alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lumina.model.declared import in_block, parameters
from lumina.model.freezing import frozen_parameters
from lumina.model.spec import ModelSpec
from lumina.optim.paging.sizes import PAGE_BYTES, WINDOW
from lumina.parallel.table import chosen_way
from lumina.parallel.way import MESSAGES, Messages
from lumina.plan.checkpointing import kind_of, recomputes, segments
from lumina.plan.costs.adapters import narrow_bytes
from lumina.plan.costs.few_bits import stored_base
from lumina.plan.costs.forward import BYTES
from lumina.plan.costs.kept_bits import bytes_of_a_number
from lumina.plan.costs.streamed import Streamed, streamed_weights
from lumina.plan.count import (
    count_exchanged,
    count_parameters,
    count_small,
    count_sparse,
)

EARLY = "optimizer_in_backward"
"""The feature by which weights change in the backward pass."""

NO_STATES = (0.0, 0.0)
"""Of an optimizer that keeps nothing."""


@dataclass(frozen=True)
class Layout:
    """How a step is laid out, as far as its memory depends on it.

    Attributes:
        micro_batch_size: rows in one forward pass of one device.
        compute_dtype: the type of products and activations.
        grad_accum: forward passes whose gradients a step adds up.
        gradient_checkpointing: which activations are recomputed, as of
            `lumina.plan.checkpointing`.
        block_checkpointing: what each block recomputes, where that is decided for each.
        activations_in: where kept activations wait: "device", "host" or "disk".
        activation_bits: bits of each kept number; 0: as many as its type has.
        feedforward_tile: tokens that go through a feed-forward at a time; 0: all.
        attention_head_groups: groups of heads whose backward pass is one after another.
        parallel: how the ranks share the work, as of `lumina.parallel.table`.
        data_ranks: ranks among which tokens, and sharded weights, are divided.
        context_ranks: of these, the ranks that share each row.
        loss_chunk_bytes: the most bytes of logits that are held at a time.
        expert_ranks: ranks over which the experts of a layer are divided.
        trainable: parameters that train; None for all.
        optimizer_states: bytes that the optimizers keep for a parameter that trains, on
            average, and how many of these are never divided over ranks; 8 and 0 for the
            two moments of AdamW.
        attention: the family of the attention kernel, as of `Forward`.
        device: "cuda" or "cpu".
        compile: whether the blocks are compiled. The estimate then counts one more
            thread that multiplies, and expects fewer kept activations.
        features: features whose declaration says what memory they take or save.
        weights_dtype: the type in which weights are kept and trained.
        base_storage: the codec that holds the frozen base of adapters, or "".
        chunk_tokens: tokens of the chunks in which rows are trained; 0: rows are whole.
        masters_beside: float32 masters live where the optimizer's states live.
        freeze: patterns of tensors that do not train.
        weights_ahead: blocks whose weights are on their way while one computes, where
            they live beside the device.
        messages: how ranks send gradients and weights.
    """

    micro_batch_size: int
    compute_dtype: str = "float32"
    grad_accum: int = 1
    gradient_checkpointing: str = "none"
    block_checkpointing: tuple[str, ...] = ()
    activations_in: str = "device"
    activation_bits: int = 0
    feedforward_tile: int = 0
    attention_head_groups: int = 1
    parallel: str = "none"
    data_ranks: int = 1
    expert_ranks: int = 1
    context_ranks: int = 1
    loss_chunk_bytes: int = 256 * 2**20
    trainable: int | None = None
    optimizer_states: tuple[float, float] = (8.0, 0.0)
    attention: str = "varlen"
    device: str = "cuda"
    compile: bool = False
    features: tuple[str, ...] = ()
    weights_dtype: str = "float32"
    base_storage: str = ""
    chunk_tokens: int = 0
    masters_beside: bool = False
    freeze: tuple[str, ...] = ()
    weights_ahead: int = 1
    messages: Messages = MESSAGES

    @property
    def parts(self) -> int:
        """Ranks among which what trains, and its masters and moments, is divided."""
        return self.data_ranks if chosen_way(self.parallel).divides_states else 1

    @property
    def accumulates(self) -> bool:
        """Whether the gradients of several backward passes add up."""
        return self.grad_accum > 1 or self.chunk_tokens > 0

    @property
    def updates_early(self) -> bool:
        """Whether weights change in the backward pass."""
        return EARLY in self.features and not self.accumulates

    def forward_spec(self, spec: ModelSpec) -> ModelSpec:
        """The shape, with rows as long as what goes forward with a graph at once.

        That is a chunk of a row, or the part of a row that one rank has.
        """
        length = math.ceil(spec.seq_length / self.context_ranks)
        length = min(self.chunk_tokens or length, length)
        return spec if length == spec.seq_length else replace(spec, seq_length=length)

    def trained_here(self, spec: ModelSpec) -> float:
        """Parameters that train, as many of them as one device trains."""
        small = self.small(spec)
        return small + (self.trained(spec) - small) / self.parts

    def small(self, spec: ModelSpec) -> int:
        """Parameters that train and stay whole on every rank, though others do not."""
        return count_small(spec, self.freeze, self.whole_below)

    @property
    def whole_below(self) -> int:
        """Elements of a parameter that does not stay whole; 0: none does."""
        return self.messages.persistent if chosen_way(self.parallel).keeps_small else 0

    def trained(self, spec: ModelSpec) -> int:
        """Parameters that train, on all devices together."""
        if self.trainable is not None:
            return self.trainable
        return count_parameters(spec).total - count_sparse(spec)

    def states_here(self, spec: ModelSpec) -> int:
        """Bytes of the optimizers' states of what one device holds."""
        kept, whole = self.optimizer_states
        divided = (kept - whole) * self.trained_here(spec)
        # Rounded first: the bytes are an average, so their sum has an error.
        return math.ceil(round(divided + whole * self.trained(spec), 3))

    def gradients_here(self, spec: ModelSpec) -> int:
        """Bytes of all gradients on one device.

        Of 16 bits where the weights are copies of masters and nothing accumulates.
        Where states are divided, a float32 part of every gradient, and while they add
        up each device has those of its own tokens whole, unless every pass reduces
        them; they leave the device as they come, and are counted as communication.
        """
        way = chosen_way(self.parallel)
        if way.divides_states:
            whole = self.accumulates and not self.messages.every_pass
            adding = self.trained(spec) - self.small(spec) if whole else 0
            return math.ceil(4 * (self.trained_here(spec) + adding))
        half, held = BYTES[self.compute_dtype] == 2, self.weights_dtype != "float32"
        narrow = (held or (half and way.masters_apart)) and not self.accumulates
        trained = self.trained_here(spec)
        if not narrow:
            return math.ceil(4 * trained)
        total = count_parameters(spec).total - count_sparse(spec)
        all_train = self.trainable is None or self.trainable == total
        routers = count_parameters(spec).router if all_train else 0
        return math.ceil(2 * (trained + routers))

    def errors_here(self, spec: ModelSpec) -> int:
        """Bytes beside gradients that are exchanged as products of narrow matrices.

        The errors, the largest product, two messages, and one factor of each product
        with an orthonormal basis of it.
        """
        found = count_exchanged(spec, self.freeze, self.messages.low_rank)
        return 4 * (found.apart + found.largest + found.sent + 2 * found.right)

    def gradients_at_a_time(self, spec: ModelSpec) -> int:
        """Bytes of gradients where each is released as soon as it is complete.

        Those of a block, which a compiled block makes together, or of a table.
        """
        blocks = (in_block(spec, layer) for layer in range(spec.num_layers))
        sizes = [
            sum(one.size for one in block.values() if one.kind == "parameter")
            for block in blocks
        ]
        largest = max(*sizes, *(one.size for one in parameters(spec)))
        return 4 * largest

    def masters_here(self, spec: ModelSpec) -> int:
        """Bytes of float32 masters of which a single process has narrower copies."""
        held = self.weights_dtype != "float32"
        if held or BYTES[self.compute_dtype] != 2:
            return 0
        if not chosen_way(self.parallel).masters_apart:
            return 0
        trained = self.trained(spec)
        total = count_parameters(spec).total - count_sparse(spec)
        # Routers have no copies: they are float32.
        routers = count_parameters(spec).router if trained == total else 0
        return math.ceil(4 * (trained - routers) / self.parts)

    def pages_here(self, spec: ModelSpec) -> int:
        """Bytes of the pages of states that are on a device at a time."""
        kept = (self.optimizer_states[0] + 4 * self.masters_beside) / self.parts
        frozen = frozen_parameters(spec, self.freeze)
        pages = [0.0]  # filled as `lumina.optim.paging.page.paged` fills them
        for size in (
            kept * one.size for one in parameters(spec) if one.name not in frozen
        ):
            if pages[-1] and pages[-1] + size > PAGE_BYTES:
                pages.append(0.0)
            pages[-1] += size
        return min(WINDOW, len(pages)) * math.ceil(max(pages))

    def streamed(self, spec: ModelSpec) -> Streamed:
        """What the weights take that come to the device block by block."""
        return streamed_weights(spec, self)

    @property
    def keeps_narrow_weights(self) -> bool:
        """Whether frozen weights take 16 bits each between steps."""
        if self.weights_dtype != "float32":
            return True
        way = chosen_way(self.parallel)
        return bool(BYTES[self.compute_dtype] == 2 and way.masters_apart)

    def base_in_few_bits(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes that a frozen base in few bits adds, and what it takes away.

        Every rank holds it whole. While a product is computed, one matrix is there in
        the compute type. Without the kernel that widens it on CUDA devices, so is what
        widening takes: its codes as bytes and as int32, and a table's values before and
        after they are multiplied by scales.
        """
        if not self.base_storage:
            return {}
        base = stored_base(spec, self.base_storage)
        element = BYTES[self.compute_dtype]
        way = chosen_way(self.parallel)
        narrow = self.keeps_narrow_weights
        ranks = self.data_ranks if way.sharded else 1
        on_cpu = self.device != "cuda"
        beside = 5 + 2 * element
        return {
            "weights": base.few - (2 if narrow else 4) * base.numbers // ranks,
            "working": self._widened(spec, base.largest, element + beside * on_cpu)
            + base.of_integers(self.micro_batch_size, self.forward_spec(spec)),
        }

    def _widened(self, spec: ModelSpec, numbers: int, each: int) -> int:
        """Bytes of the largest matrix, made wide for its product.

        When the matrix before a dense feed-forward's values goes back on CUDA, these
        values, which were kept, are gone.
        """
        whole = numbers * each
        if self.device != "cuda" or spec.moe is not None or self.feedforward_tile:
            return whole
        tokens = self.micro_batch_size * self.forward_spec(spec).seq_length
        gone = 2 * tokens * spec.intermediate_size * BYTES[self.compute_dtype]
        return max(0, whole - gone)

    def beside_the_base(self, spec: ModelSpec) -> dict[str, int]:
        """Bytes that adapters add to what blocks keep."""
        forward = self.forward_spec(spec)
        tokens = self.micro_batch_size * forward.seq_length
        element = BYTES[self.compute_dtype]
        kinds = recomputes(self, spec.num_layers)
        kept = narrow_bytes(spec, tokens, element, kinds)
        return {"activations": kept}

    def whole_copy(self, spec: ModelSpec) -> int:
        """Bytes of all parameters in the compute type, not divided among devices."""
        return BYTES[self.compute_dtype] * count_parameters(spec).total

    def hidden_states(self, spec: ModelSpec) -> int:
        """Bytes of a forward pass's last hidden states in the compute type."""
        positions = self.micro_batch_size * spec.seq_length
        return BYTES[self.compute_dtype] * positions * spec.hidden_size

    def block_inputs(self, spec: ModelSpec) -> tuple[int, int]:
        """(inputs of blocks that are kept for recomputation, bytes of each)."""
        size = self.hidden_states(spec)
        if self.activation_bits:
            number = bytes_of_a_number(self.activation_bits)
            size = math.ceil(size / BYTES[self.compute_dtype] * number)
        kinds = recomputes(self, spec.num_layers)
        runs = segments(spec.num_layers, kind_of(self).segment(spec.num_layers))
        if len(runs[0]) > 1:
            return len(runs) - 1 + len(runs[-1]), size
        return len(kinds) - kinds.count("none"), size

    def inputs_away(self, spec: ModelSpec) -> tuple[int, int]:
        """(inputs of blocks that wait beside the device, bytes of each).

        The last one stays where it is.
        """
        count, size = self.block_inputs(spec)
        return max(0, count - 1), size
