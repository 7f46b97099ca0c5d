"""The Plan: what will be done, every choice made, each with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lumina.model.spec import ModelSpec
from lumina.parallel.sizes import Sizes
from lumina.plan.flops import flops_per_token

NOTHING_HELD_OUT = "there is no evaluation data"
"""The reason of `eval_every` where nothing is evaluated."""


@dataclass(frozen=True)
class Plan:
    """Everything `assemble` and the training loop need to know, and why.

    Attributes:
        spec: the model's shape.
        device: "cpu", "cuda" or "mps".
        compute_dtype: "float32", "bfloat16" or "float16".
        tf32: whether float32 products may use TF32.
        fp8: "" for none; how the blocks' linear layers multiply float8: "e4m3" or
            "hybrid" (`lumina.features.precisions`).
        fp8_scaling: "tensor", a scale for each matrix; or "rows", one for each row, and
            weights' gradients from unrounded values.
        fp8_experts: routed experts multiply float8 too.
        weights_dtype: the type in which weights are kept and trained. Other than
            "float32", there are no float32 master weights.
        parallel: how several processes share the work: "none" for one process, or the
            name of another way that `lumina.parallel.table` knows.
        bucket_mb: MiB of gradients that DDP exchanges at a time. A control changes it.
        world_size: processes that train together.
        context_parallel: processes that share each row; 1: rows are whole.
        micro_batch_size: sequences per data rank and forward.
        grad_accum: forwards per data rank and step.
        global_batch_size: micro_batch_size * grad_accum * data_parallel.
        steps: optimizer steps of the whole run.
        epochs: passes over the data where they are the limit that holds, else None.
        lr_scheduler: the schedule, an entry of `lumina.plan.schedule_table`.
        lr_scheduler_options: its options and their values.
        warmup_steps: steps of warm-up.
        decay_steps: steps in which the rate falls.
        schedule_offset: places by which the schedule is ahead of the steps; not 0
            where the steps before a resume had another number of rows.
        optimizer: of the tensors that no group names.
        optimizer_groups: PATTERN=OPTIMIZER, in the order in which they are tried.
        optimizer_options: optimizer -> its own options and their values.
        group_learning_rates: PATTERN=FACTOR, in the order in which they are tried.
        group_weight_decays: the same for the weight decay.
        qk_clip: the attention logit above which queries and keys are scaled; 0: none.
        lr_transfer: "mup" or "completep" as mode, and how many times the width and
            the depth of the base the model has; nothing where rates do not carry over.
        base_storage: the codec (`lumina.ops.low_bits`) that holds the frozen matrices
            of the base of adapters in few bits; "": none does.
        rounded_to: the codec that weights are rounded by in each forward pass while
            they train; "": none.
        adapter_base: the frozen base of adapters: `path`, `sha256` of its content, and
            whether its averaged weights are meant; empty without adapters.
        gradient_steps: small steps on gradients, in the order in which they act.
        gradient_step_options: step -> its options and their values.
        schedule_batch: rows of a step by which an asked number of warm-up steps is
            meant: those that the run began with. 0 where no Plan said it yet.
        schedule_steps: steps that the schedule of the learning rate is made for, where
            those are not the steps of this Plan alone; else 0.
        gradient_checkpointing: a kind of `lumina.plan.checkpointing`.
        block_checkpointing: what each block recomputes, where the kind is "budget".
        attention: "flash3", "flash2", "sdpa", "blockwise" or "reference".
        chunk_size: tokens of the chunks in which rows are trained; 0: rows are whole.
        chunk_offload: keys and values of the chunks lie in host memory.
        pinned: controls that no rule may change.
        rules: what watches the run and may change it through its controls.
        eval_every: steps between evaluations, 0: only at the end.
        save_every: steps between checkpoints, 0: only at the end.
        parameters: total; `active_parameters` used for one token.
        flops_per_token: forward and backward, by `lumina.plan.flops.CONVENTION`.
        memory: bytes per device by component (`lumina.plan.memory.COMPONENTS`), their
            sum `bound`, and `expected`, the likely peak of a step.
        elsewhere: bytes of one process in host memory ("host") and in files of the
            offload folder ("disk"), in place of its device.
        optimizer_states_in: where the optimizer's states live between steps: an entry
            of `lumina.optim.paging.home.HOMES`, or "device".
        embedding_in: where the frozen table of token vectors lies: "device" or "host".
        weights_in: where weights of blocks live, all or the frozen ones: an entry of
            `lumina.optim.paging.home.HOMES`, or "device".
        weights_ahead: blocks whose weights are on their way while one computes.
        gradients_reduced: of several micro-batches, where weights are sharded: once a
            "step", or after each "micro_batch".
        expert_parallel_size: ranks over which a layer's routed experts are divided.
        expert_placement_policy: which rank holds which of them: "balanced" by their
            usage, or "memory_optimal".
        overlap_comm: as of `lumina.parallel.way.Messages.overlap`.
        reduce_bucket_size: as of its `reduced`.
        allgather_bucket_size: as of its `gathered`.
        stage3_param_persistence_threshold: as of its `persistent`.
        gradient_compression: "powersgd" where gradients are exchanged as products of
            narrow matrices (`lumina.parallel.low_rank`), or "none".
        gradient_compression_rank: columns of those matrices.
        gradient_compression_start: completed steps from which they are.
        offload_folder: for files; "": the one in LUMINA_CACHE.
        optimizer_in_backward: a weight changes as soon as its gradient is there, in
            steps of one forward.
        activations_in: where the inputs of blocks wait for the backward pass: "device",
            "host" or "disk".
        feedforward_tile: tokens that go through a feed-forward at a time; 0: all.
        attention_head_groups: groups of heads that go back through attention one after
            the other, where tokens are in tiles.
        activation_bits: of a number of what is kept of the activations; 0: as it is.
        features: features without an option of their own that the run has.
        sources: the sources of a mixture, whose losses are reported one by one.
        watched: those of them that no row is taken of: their held-out data is measured
            and does not count in the held-out loss.
        preservation: how strongly the weights are pulled towards those that training
            began with: the share of the distance that is taken back over all steps at
            the peak rate, as a rate of decay; or how much the divergence from the
            base model's scores weighs. 0: not at all.
        preservation_method: "weights" or "outputs": what is kept near.
        preservation_temperature: of the scores that are compared.
        watch_vocabulary: how often each token is seen is counted.
        adaptive: window, bounds and thresholds of shares that follow the losses.
        convergence: window and threshold of phases that end when the loss is level.
        experience: outcomes of actions in earlier runs (`lumina.plan.experience`):
            ANOMALY/CONTEXT/ACTION -> successes and failures; nothing where there are
            none, or none are asked for.
        measures: what is measured beside loss, rates and memory, by name -> steps from
            one such measurement to the next.
        gradient_norm_limit: a gradient norm above it explodes, whatever is usual.
        recovery: snapshots and what makes them good (`lumina.plan.recovering`); empty:
            there are none.
        orchestrator: mode and limits of what changes the run by itself; empty: off.
        safe: how optimisations are watched, and whether they are proven; empty: not.
        phases: the names of the run's phases, where it has several.
        phase: the one that this Plan is for; its first step follows `phase_begin`
            completed steps, and its last step is `steps`.
        prefetch_threads: that make batches ahead of their use; 0: none does.
        triton_kernels: SwiGLU and norms are kernels of their own, but for the gradients
            of those in `plain_backwards`.
        blackwell_tuning: `attention_tiles` are those for Blackwell but for named ones.
        attention_tiles: queries, keys, warps and stages of Triton's attention kernel.
        cuda_graphs: steps are captured, after `cuda_graphs_warmup` ordinary ones.
        cudnn_benchmark: cuDNN tries its algorithms for every new shape.
        fallbacks: what takes the place of a device, kernel or feature that is not
            available.
        reasons: field name -> why it has its value; features.NAME -> why the run has
            or does not have that feature.
        warnings: advice that does not stop the run.
    """

    spec: ModelSpec
    device: str = "cpu"
    compute_dtype: str = "float32"
    tf32: bool = False
    fp8: str = ""
    fp8_scaling: str = "tensor"
    fp8_experts: bool = False
    weights_dtype: str = "float32"
    parallel: str = "none"
    bucket_mb: float = 25.0
    world_size: int = 1
    context_parallel: int = 1
    micro_batch_size: int = 8
    grad_accum: int = 1
    global_batch_size: int = 8
    steps: int = 100
    epochs: float | None = None
    learning_rate: float = 3e-4
    min_lr: float = 3e-5
    lr_scheduler: str = "cosine"
    lr_scheduler_options: dict[str, Any] = field(default_factory=dict)
    warmup_steps: int = 10
    decay_steps: int = 20
    schedule_offset: int = 0
    schedule_batch: int = 0
    schedule_steps: int = 0
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    optimizer_groups: tuple[str, ...] = ()
    optimizer_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    group_learning_rates: tuple[str, ...] = ()
    group_weight_decays: tuple[str, ...] = ()
    lr_transfer: dict[str, Any] = field(default_factory=dict)
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    max_grad_norm: float = 1.0
    qk_clip: float = 0.0
    gradient_steps: tuple[str, ...] = ()
    gradient_step_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    ema_decay: float = 0.0
    label_smoothing: float = 0.0
    swa_start: float = 0.0
    lookahead_steps: int = 0
    lookahead_share: float = 0.5
    puzzle_lr: float = 0.01
    puzzle_weight_decay: float = 0.1
    freeze: tuple[str, ...] = ()
    base_storage: str = ""
    rounded_to: str = ""
    adapter_base: dict[str, Any] = field(default_factory=dict)
    pinned: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    seed: int = 42
    gradient_checkpointing: str = "none"
    block_checkpointing: tuple[str, ...] = ()
    compile: bool = False
    attention: str = "sdpa"
    chunk_size: int = 0
    chunk_offload: bool = False
    loss_chunk_bytes: int = 256 * 2**20
    deterministic: bool = False
    eval_every: int = 0
    eval_batches: int = 50
    early_stopping_patience: int = 0
    save_every: int = 0
    save_total_limit: int = 3
    log_every: int = 10
    parameters: int = 0
    active_parameters: int = 0
    flops_per_token: float = 0.0
    features: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    watched: tuple[str, ...] = ()
    preservation: float = 0.0
    preservation_method: str = "weights"
    preservation_temperature: float = 2.0
    watch_vocabulary: bool = False
    adaptive: dict[str, float] = field(default_factory=dict)
    convergence: dict[str, float] = field(default_factory=dict)
    experience: dict[str, list[int]] = field(default_factory=dict)
    measures: dict[str, int] = field(default_factory=dict)
    gradient_norm_limit: float = 100.0
    orchestrator: dict[str, Any] = field(default_factory=dict)
    safe: dict[str, Any] = field(default_factory=dict)
    recovery: dict[str, int] = field(default_factory=dict)
    phases: tuple[str, ...] = ()
    phase: str = ""
    phase_begin: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    elsewhere: dict[str, int] = field(default_factory=dict)
    optimizer_states_in: str = "device"
    optimizer_in_backward: bool = False
    embedding_in: str = "device"
    weights_in: str = "device"
    weights_ahead: int = 1
    gradients_reduced: str = "step"
    expert_parallel_size: int = 1
    expert_placement_policy: str = "memory_optimal"
    overlap_comm: bool = True
    reduce_bucket_size: int = 2**24
    allgather_bucket_size: int = 2**24
    stage3_param_persistence_threshold: int = 0
    gradient_compression: str = "none"
    gradient_compression_rank: int = 8
    gradient_compression_start: int = 0
    offload_folder: str = ""
    activations_in: str = "device"
    activation_bits: int = 0
    feedforward_tile: int = 0
    attention_head_groups: int = 1
    prefetch_threads: int = 1
    cudnn_benchmark: bool = False
    triton_kernels: bool = False
    plain_backwards: tuple[str, ...] = ()
    blackwell_tuning: bool = False
    attention_tiles: dict[str, int] = field(default_factory=dict)
    cuda_graphs: bool = False
    cuda_graphs_warmup: int = 50
    fallbacks: tuple[str, ...] = ()
    reasons: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def keeps(self) -> str:
        """What of the base model training stays near: weights, outputs, or nothing."""
        return self.preservation_method if self.preservation > 0 else ""

    @property
    def masters_beside(self) -> bool:
        """Whether float32 masters live with the states beside the device.

        They do where nothing but the step of an optimizer reads or writes them.
        """
        others = (
            self.ema_decay
            or self.swa_start
            or self.lookahead_steps
            or self.qk_clip
            or self.gradient_steps
            or self.keeps == "weights"
            or "weight_changes" in self.measures
        )
        return self.optimizer_states_in != "device" and not others

    @property
    def updates_in_backward(self) -> bool:
        """Whether weights change in the backward pass, which a step has one of."""
        return (
            self.optimizer_in_backward and self.grad_accum == 1 and not self.chunk_size
        )

    @property
    def mesh_sizes(self) -> Sizes:
        """Ranks along each dimension of the mesh."""
        return Sizes.of(
            self.world_size,
            sequence=self.context_parallel,
            expert=self.expert_parallel_size,
        )

    @property
    def data_parallel(self) -> int:
        """Ranks among which the rows of a step are divided."""
        return self.mesh_sizes.rows

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Plan:
        """The inverse of `to_dict`."""
        values = dict(values)
        values["spec"] = ModelSpec.from_dict(values["spec"])
        for name in (
            "freeze",
            "block_checkpointing",
            "optimizer_groups",
            "group_learning_rates",
            "group_weight_decays",
            "gradient_steps",
            "features",
            "pinned",
            "rules",
            "sources",
            "watched",
            "phases",
            "watched",
            "phases",
            "fallbacks",
            "plain_backwards",
        ):
            values[name] = tuple(values.get(name, ()))
        values["warnings"] = tuple(values["warnings"])
        return Plan(**values)

    def flops_saved_by(self, kind: str) -> float:
        """Percentage of a token's operations that one kind of the model saves.

        Args:
            kind: a field of `ModelSpec` that a model without it has as None.
        """
        without = ModelSpec.from_dict(self.spec.to_dict() | {kind: None})
        return 100 * (1 - flops_per_token(self.spec) / flops_per_token(without))

    def feature_reasons(self) -> dict[str, tuple[bool, str]]:
        """Feature without an option of its own -> (the run has it, why)."""
        prefix = "features."
        return {
            name: (name in self.features, why)
            for key, why in self.reasons.items()
            if (name := key.removeprefix(prefix)) != key
        }

    def replace(self, **changes: Any) -> Plan:
        """A new Plan with some fields changed."""
        return replace(self, **changes)
