"""What follows from a Plan: how its step is laid out, its counts and its memory."""

from __future__ import annotations

from lumina.model.spec import ModelSpec
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters, count_trainable
from lumina.plan.elsewhere import elsewhere, layout_beside
from lumina.plan.feature_choice import features_with_memory
from lumina.plan.flops import flops_per_token
from lumina.plan.kernels import kernel_family
from lumina.plan.memory import estimate
from lumina.plan.optimizers import bytes_per_parameter
from lumina.plan.plan import Plan


def with_spec(plan: Plan, spec: ModelSpec) -> Plan:
    """The Plan for a changed model: counted, and its memory estimated, again."""
    counts = count_parameters(spec)
    plan = plan.replace(spec=spec)
    return plan.replace(
        parameters=counts.total,
        active_parameters=counts.active,
        flops_per_token=flops_per_token(spec, counts),
        memory=estimate(spec, layout_of(plan)),
        elsewhere=elsewhere(spec, layout_of(plan)),
    )


def layout_of(plan: Plan) -> Layout:
    """How a Plan lays out a step, as far as its memory depends on it."""
    return Layout(
        micro_batch_size=plan.micro_batch_size,
        compute_dtype=plan.compute_dtype,
        weights_dtype=plan.weights_dtype,
        base_storage=plan.base_storage,
        grad_accum=plan.grad_accum,
        gradient_checkpointing=plan.gradient_checkpointing,
        block_checkpointing=plan.block_checkpointing,
        activations_in=plan.activations_in,
        activation_bits=plan.activation_bits,
        feedforward_tile=plan.feedforward_tile,
        attention_head_groups=plan.attention_head_groups,
        parallel=plan.parallel,
        data_ranks=plan.mesh_sizes.tokens,
        context_ranks=plan.context_parallel,
        expert_ranks=plan.expert_parallel_size,
        loss_chunk_bytes=plan.loss_chunk_bytes,
        trainable=count_trainable(plan.spec, plan.freeze),
        optimizer_states=bytes_per_parameter(
            plan.spec, plan.optimizer, plan.optimizer_groups, plan.freeze
        ),
        attention=kernel_family(plan.attention),
        device=plan.device,
        compile=plan.compile,
        chunk_tokens=plan.chunk_size,
        features=features_with_memory(plan),
        **layout_beside(plan),
    )
