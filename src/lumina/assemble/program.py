"""`Program = assemble(plan, state)`: the realisation of a Plan, and back to a State.

The one wrap order: features that change the network (activation checkpointing among
them) -> compile each block -> the wrapper of the way of being parallel.
Nothing is changed inside a Program once it stands, except what is declared live (the
learning rate, the clip, the weight decay); everything else is: capture, edit, assemble
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lumina.assemble.adjustable import Adjustable
from lumina.assemble.bare_network import build, persistent_buffers, row_tables
from lumina.assemble.clipping import clipped_layers
from lumina.assemble.compiling import compile_blocks
from lumina.assemble.counted import counted_shapes
from lumina.assemble.emptying import empty_cache
from lumina.assemble.expert_placement import place_experts
from lumina.assemble.features import build_features
from lumina.assemble.frozen_model import FrozenModel, rows_of_base
from lumina.assemble.held_bytes import held_bytes
from lumina.assemble.host_copies import HostCopies
from lumina.assemble.initial_values import InitialValues
from lumina.assemble.logical import fill, join_fused, logical_names, split_fused
from lumina.assemble.optimizers import make_optimizers
from lumina.assemble.parts_here import PartsHere
from lumina.assemble.ranks import Ranks
from lumina.assemble.row_parts import RowParts
from lumina.assemble.slots import make_slots
from lumina.assemble.streamed.blocks import close_streamed
from lumina.assemble.vocabulary_counts import VocabularyCounts
from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.model.carry_protocol import Carry
from lumina.model.declared import fused_pieces, tensor_info
from lumina.model.freezing import frozen_parameters
from lumina.model.kinds.kind import Memory
from lumina.model.kinds.table import kinds_of, loss_terms
from lumina.model.stored import StoredWeight, storable, store
from lumina.model.tensors import FusedPieces, TensorInfo
from lumina.ops.low_bits.codec import found_codec, relative_error
from lumina.optim.anchor import BaseWeights
from lumina.optim.averages import evaluation_weights
from lumina.optim.early import Early
from lumina.optim.evaluated import EvaluationWeights
from lumina.optim.gate import LossScale
from lumina.optim.gradient_step import GradientStep, chosen_gradient_step
from lumina.optim.leaving import Leaving
from lumina.optim.logit_clip import LogitClip
from lumina.optim.optimizer import Optimizers, local
from lumina.parallel.table import chosen_way
from lumina.parallel.way import Place
from lumina.plan.exchanging import messages_of
from lumina.plan.plan import Plan
from lumina.plan.transfer import first_factors
from lumina.state.state import State

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Program:
    """A network made ready to train on this rank, with its optimizer.

    Attributes:
        plan: what it realises.
        ranks: this process's place.
        mesh: the ranks by dimension.
        row_parts: takes this rank's part of rows that several ranks share.
        way: how they share the work.
        device: where it runs.
        compute_dtype: type of products and activations.
        weights_dtype: type in which weights are kept and trained.
        network: the bare network (parameters may be sharded).
        model: what to call: the network inside its wrapper.
        pieces: fused parameter -> its logical tensors.
        tables: names of the parameters that are read row by row, each with the module
            it is in. Wrappers leave them whole, and they get no gradient of their size.
        optimizer: the optimizers, with the masters of the trained parameters.
        early: what updates weights in the backward pass, or None.
        gradient_steps: small steps on gradients, in the order in which they act.
        average: the weights that evaluation uses in place of the masters, or None.
        base: the weights that training stays near, or None.
        frozen: the model whose scores training stays near, or None.
        vocabulary: how often each token was seen, where that is watched, or None.
        logit_clip: what keeps attention logits at a threshold, or None.
        host_copies: memory for captures beside the next step, or None.
        spare_copies: the same, for a capture while the other one is being written.
        copies_beside_steps: whether captures may have such memory.
        captures: memory of other captures that may still be under way.
        remains: after `close`, the State in host memory that another Program is
            assembled from; None where nothing goes on from here.
        kinds: the kinds that the model is of.
        terms: its further losses.
        counts: keys of the auxiliary sums that only count, with their shapes.
        memories: what kinds remember from step to step, by their `memory_key`.
        carries: a recurrent model's, for each forward of a step; None at first.
        loss_scale: for float16.
        live: the scalars that may change between steps.
        stored: frozen parameters in few bits, by the names of the parameters.
        storage_error: how far each tensor in few bits is from the weights it is of, as
            `lumina.ops.low_bits.codec.relative_error` says.
        parts: which ranks hold the parts of its parameters.
        row_order: of parameters whose stored rows stand in another order than in a
            State, the number there of each row.
        hooks: of its parameters, to be removed when it is closed.
        leaving: what carries gradients to memory of the host, or None.
        captured: recordings of its step (`lumina.train.graphs`), or None.
        recording: a step is being recorded: nothing may wait or be read.
        held: bytes of what it holds, see `held_bytes`.
    """

    def __init__(self, plan: Plan, ranks: Ranks, fresh: bool = False) -> None:
        """Build and wrap; `materialise` then gives the weights their values.

        Args:
            plan: what to build.
            ranks: this process's place.
            fresh: the weights will be initial ones: they are drawn in the meantime.
        """
        self.plan = plan
        self.ranks = ranks
        self.mesh = ranks.mesh(plan.mesh_sizes)
        self.row_parts = RowParts(self.mesh.sequence)
        self.device = ranks.device(plan.device)
        self.compute_dtype = DTYPES[plan.compute_dtype]
        self.weights_dtype = DTYPES[plan.weights_dtype]
        self._build_network()
        # A step reads and writes a few rows of a table, so it stays whole.
        whole = frozenset(table.weight for table in self.tables.values())
        self.way = chosen_way(plan.parallel)(
            Place(
                self.network,
                self.mesh,
                self.device,
                self.compute_dtype,
                whole,
                bucket_mb=plan.bucket_mb,
                messages=messages_of(plan),
            )
        )
        self.parts = PartsHere(self)
        self.row_order: dict[str, Tensor] = {}
        self._initial: InitialValues | None = None
        if fresh:
            self._initial = InitialValues(
                self.network,
                [name for name, _ in self._tensors()],
                plan.seed,
                processes=ranks.local_size,
                factors=first_factors(plan.lr_transfer, plan.spec),
            )
        self.model: nn.Module
        self._wrap()
        self._begin_training_state()
        self._begin_captures()
        self._closed = False

    def _build_network(self) -> None:
        """The bare network, and which of its tensors train, rest or stand in tables."""
        plan = self.plan
        self.network = build(plan)
        self.kinds = kinds_of(plan.spec)
        self.terms = loss_terms(plan.spec)
        self.counts = counted_shapes(plan)
        self.pieces: dict[str, FusedPieces] = fused_pieces(plan.spec)
        self.info = tensor_info(plan.spec)
        for name in frozen_parameters(plan.spec, plan.freeze):
            self.network.get_parameter(name).requires_grad_(False)
        self.stored = self._store_base()
        self.storage_error: dict[str, float] = {}
        self.tables = row_tables(self.network)
        self.trained = {
            name for name, p in self.network.named_parameters() if p.requires_grad
        }
        for table in self.tables.values():
            table.weight.requires_grad_(False)

    def _begin_training_state(self) -> None:
        """What trains the network and remembers from step to step, before any value.

        `materialise` makes the optimizers and what reads their states.
        """
        plan = self.plan
        self.optimizer: Optimizers
        self.early: Early | None = None
        self.gradient_steps: list[GradientStep] = []
        self.average: EvaluationWeights | None = None
        self.base: BaseWeights | None = None
        self.frozen: FrozenModel | None = None
        self.vocabulary: VocabularyCounts | None = None
        if plan.watch_vocabulary:
            self.vocabulary = VocabularyCounts(
                plan.spec.vocab_size, plan.sources, self.device
            )
        self.logit_clip: LogitClip | None = None
        self.carries: list[Carry | None] = [None] * plan.grad_accum
        self.memories: dict[str, Memory] = {}
        for kind in self.kinds:
            if (memory := kind.memory(plan.spec, self.device)) is not None:
                self.memories[kind.memory_key] = memory
        self.loss_scale = LossScale(
            enabled=self.compute_dtype == torch.float16, device=self.device
        )
        scalar = torch.zeros((), dtype=torch.float32, device=self.device)
        self.live = Adjustable(
            learning_rate=scalar.clone(),
            max_grad_norm=scalar.clone().fill_(plan.max_grad_norm),
            weight_decay=plan.weight_decay,
        )
        self.hooks: list[Any] = []
        self.leaving: Leaving | None = None

    def _begin_captures(self) -> None:
        """What copies the State while the run goes on, and what records a step."""
        self.host_copies: HostCopies | None = None
        self.spare_copies: HostCopies | None = None
        self.captures: list[HostCopies] = []
        self.remains: State | None = None
        self.copies_beside_steps = self.device.type == "cuda" and not self.parts.over
        self.captured: Any = None
        self.recording = False

    @property
    def sharded(self) -> bool:
        """Whether each rank holds a part of every parameter."""
        return self.way.sharded

    @property
    def divided(self) -> bool:
        """Whether each rank trains a part of every parameter."""
        return self.way.divides_states

    @property
    def meets_in_forward(self) -> bool:
        """Whether ranks exchange weights, keys or rows in every forward pass."""
        return self.sharded or self.mesh.expert.size > 1 or self.mesh.sequence.size > 1

    @property
    def captures_alone(self) -> bool:
        """Whether no rank waits for another one while its State is captured."""
        if self.ranks.world_size == 1:
            return True
        parted = self.parts.over is not None
        meets = parted or self.network.recurrent or self.vocabulary is not None
        return self.way.synchronised and not meets

    @property
    def kept_in(self) -> torch.dtype:
        """Type of the network's weights between steps, but for routers and tables."""
        if self.weights_dtype != torch.float32 or not self.way.masters_apart:
            return self.weights_dtype
        return self.compute_dtype  # copies of the masters

    def _store_base(self) -> dict[str, StoredWeight]:
        """Put frozen matrices into few bits, where the Plan says so."""
        plan, network = self.plan, self.network
        if not plan.base_storage:
            return {}
        frozen = {n for n, p in network.named_parameters() if not p.requires_grad}
        chosen = frozen & storable(plan.spec, network).keys()
        codec = found_codec(plan.base_storage)
        return store(network, dict.fromkeys(sorted(chosen), codec))

    def _wrap(self) -> None:
        """Block transforms, then compile, then the parallel wrapper."""
        plan, network = self.plan, self.network
        backbone = network.backbone
        backbone.compute_dtype = self.compute_dtype
        if hasattr(backbone, "skips_halted"):
            backbone.skips_halted = not plan.compile and not self.sharded
        build_features(network, plan)
        if plan.compile:
            compile_blocks(backbone, plan.spec)
        self.way.wrap()
        self._narrow_base()
        network.to_empty(device=self.device)

    def _narrow_base(self) -> None:
        """Before it has memory, give the frozen base of adapters the type it stays in.

        Its checkpoint is elsewhere, so that nothing needs it in float32.
        """
        if not self.plan.spec.adapters or self.kept_in == torch.float32:
            return
        exact = self.exact() | self.trained
        for name, parameter in self.network.named_parameters():
            if name not in exact:
                parameter.data = parameter.data.to(self.kept_in)

    def _tensors(self) -> list[tuple[str, Tensor]]:
        """What has a value in a State: parameters and persistent buffers."""
        network = self.network
        return list(network.named_parameters()) + persistent_buffers(network)

    def materialise(self, read: Callable[[str], Tensor] | None) -> None:
        """Give every weight its value, then make the optimizer around them.

        Args:
            read: logical name -> float32 CPU tensor; None, of a fresh Program: the
                initial values.
        """
        network = self.network
        network.reset_buffers()
        place_experts(self, read)
        for name, tensor in self._tensors():
            if read is None:
                assert self._initial is not None
                value = self._initial.take(name)
            else:
                value = join_fused(name, self.pieces, read)
            if tuple(value.shape) != tuple(tensor.shape):
                raise LuminaError(
                    "E303",
                    f"{name} has shape {tuple(value.shape)} in the checkpoint, "
                    f"{tuple(tensor.shape)} in the model",
                    "the settings of the model and the checkpoint must agree",
                )
            here, order = tensor.detach(), self.row_order.get(name)
            fill(local(here), here, value, order)
            del value  # before the next one is read
        for name, stored in self.stored.items():
            for logical, piece in self._values_of(name, stored, read):
                piece = piece.to(self.device)  # which packs it much sooner
                packed = stored.codec.pack(piece)
                self.storage_error[logical] = relative_error(piece, packed)
                stored.fill(logical, packed)
        self._initial = None
        if read is not None and self.plan.keeps == "outputs":
            self.frozen = FrozenModel(self, build(self.plan), self.exact())
            self.frozen.fill(read)
        self._make_optimizer()
        self.model = self.way.settle()

    def _values_of(
        self, name: str, stored: StoredWeight, read: Callable[[str], Tensor] | None
    ) -> Iterable[tuple[str, Tensor]]:
        """The logical tensors of a stored parameter, one at a time."""
        if read is not None:
            return ((logical, read(logical)) for logical in stored.names)
        value = self.network.initial_value(name, self.plan.seed)
        return split_fused(name, value, self.pieces).items()

    def _make_optimizer(self) -> None:
        """Masters, where gradients gather, and the optimizers with their states."""
        slots = make_slots(self)
        if all(slot.touched is not None for slot in slots):
            raise LuminaError(
                "E002", "every parameter is frozen", "narrow the patterns of --freeze"
            )
        self.optimizer = make_optimizers(
            self.plan,
            slots,
            {slot.name: self.info_of(slot.name).role for slot in slots},
            device=self.device,
            ranks=self.mesh.tokens,
        )
        if self.plan.updates_in_backward:
            self.early = Early(self.optimizer.members, self.device)
            self.hooks += self.early.hooks
        for slot in self.optimizer.slots:
            if slot.name in self.tables:
                self.tables[slot.name].touched = slot.touched
        self.gradient_steps = [
            step.cls(
                [slot for slot in self.optimizer.slots if slot.touched is None],
                {slot.name: self.info_of(slot.name).role for slot in slots},
                self.plan.gradient_step_options.get(step.name)
                or {name: one.default for name, one in step.options.items()},
                device=self.device,
                seed=self.plan.seed,
            )
            for step in map(chosen_gradient_step, self.plan.gradient_steps)
        ]
        self.average = evaluation_weights(self.plan, self.optimizer, self.device)
        if self.plan.qk_clip > 0:
            self.logit_clip = LogitClip(
                clipped_layers(self.network, self.optimizer.slots, self.device),
                self.plan.qk_clip,
                self.mesh.tokens,
            )
        if self.plan.keeps == "weights":
            steps = max(self.plan.steps - self.plan.phase_begin, 1)
            rate = self.plan.preservation / (steps * self.plan.learning_rate)
            self.base = BaseWeights(self.optimizer.slots, rate)
        self.optimizer.release()
        self.held = held_bytes(self)

    def exact(self) -> frozenset[str]:
        """Parameters that stay float32 whatever the program computes in."""
        return frozenset(
            name
            for name, _ in self.network.named_parameters()
            if name in self.tables or self.info_of(name).role == "router"
        )

    def partly_frozen(self, name: str) -> bool:
        """Whether only a part of this parameter trains."""
        roles = (kind.partly_frozen(self.plan.spec) for kind in self.kinds)
        return any(self.info_of(name).role in some for some in roles)

    def info_of(self, name: str) -> TensorInfo:
        """Role and axes of a parameter; fused pieces share theirs."""
        return self.info[logical_names(name, self.pieces)[0]]

    def ready(self, batch: Batch) -> Batch:
        """A micro-batch of the host on the device, with all that the model reads."""
        moved = self.row_parts.of(batch).to(self.device)
        if self.vocabulary is not None:
            self.vocabulary.add(moved)
        if self.frozen is None:
            return moved
        return self.frozen.beside(moved, rows_of_base(batch))

    def gradient_sync(self, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward: only the step's last one talks to ranks."""
        return self.way.sync(last)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Around evaluation: the weights that it uses, where they are others."""
        average = self.average
        self.before_changes()
        with average.applied() if average is not None else nullcontext():
            if average is not None:
                self.way.publish()
            yield
        if average is not None:
            self.way.publish()
        self.way.after_evaluation()

    @torch.no_grad()
    def merge(self) -> None:
        """Make one model of the copies of all ranks, where each learns by itself.

        Called by all ranks, before the model is judged or saved.

        Raises:
            LuminaError: E002 where an optimizer keeps what has no mean.
        """
        if self.way.synchronised:
            return
        self.before_changes()
        self.optimizer.settle()
        slots = self.optimizer.slots
        states = [state for slot in slots for state in slot.state.values()]
        if any(state.dtype != torch.float32 for state in states):
            raise LuminaError(
                "E002",
                f"parallel {self.plan.parallel} averages what optimizers keep, and "
                "this one keeps it in fewer bits than float32",
                "use --optimizer adamw, or --parallel ddp",
            )
        averages = [] if self.average is None else list(self.average.values())
        self.way.merge([*(slot.master for slot in slots), *states, *averages])
        for slot in slots:
            slot.write_back()
            slot.release()

    def before_changes(self) -> None:
        """Called before weights and states change: a capture may still read them."""
        for copies in (self.host_copies, self.spare_copies, *self.captures):
            if copies is not None:
                copies.before_changes()

    def replan(self, plan: Plan) -> None:
        """Take the Plan after a live change: the only place where it is replaced.

        Everything else reads the Plan from here, so that nothing keeps an old one.
        """
        self.plan = plan

    def close(self) -> None:
        """Release every tensor, so that another Program has the room."""
        if self._closed:
            return
        self._closed = True
        if self.captured is not None:
            self.captured.close()
            self.captured = None
        for copies in (self.host_copies, self.spare_copies):
            if copies is not None:
                copies.close()
        self.host_copies = self.spare_copies = None
        for hook in self.hooks:
            hook.remove()
        self.hooks.clear()
        self.optimizer.close()
        close_streamed(self.network)
        if self.leaving is not None:
            self.leaving.close()
        self.gradient_steps.clear()
        self.average = self.base = self.frozen = self.logit_clip = self.early = None
        self.vocabulary = None
        for held in (self.stored, self.tables, self.memories):
            held.clear()
        self.carries = [None] * len(self.carries)
        self.captures.clear()
        self.way.close()
        del self.way
        self.model = self.network = nn.Module()  # type: ignore[assignment]
        if self.plan.compile:
            # Code compiled for this Program would count against the next one's limit.
            torch.compiler.reset()
        empty_cache()
