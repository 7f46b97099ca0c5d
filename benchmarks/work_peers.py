"""Work A and Work B as transformers and torchtitan 0.2.2 train them."""

from __future__ import annotations

from typing import Any

from work_shapes import (
    MICRO_BATCH,
    SEQUENCE,
    accumulated,
    in_transformers,
    random_batch,
    skew_,
)


def transformers_step(
    shape: dict[str, Any], options: set[str]
) -> tuple[Any, dict[str, Any]]:
    """The same work with transformers' model and a plain loop, eager SDPA."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        LlamaConfig,
        OlmoeConfig,
    )

    common = in_transformers(shape, SEQUENCE)
    if "experts" in shape:
        config: Any = OlmoeConfig(
            **common,
            num_experts=shape["experts"],
            num_experts_per_tok=shape["top_k"],
        )
        config._experts_implementation = "grouped_mm"
    else:
        config = LlamaConfig(**common)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()
    data = []
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, shape["vocab"], (MICRO_BATCH, SEQUENCE), generator=g)
        data.append(ids.cuda())

    def step(i: int) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=data[i % 4], labels=data[i % 4]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    total = sum(p.numel() for p in model.parameters())
    return step, {
        "parameters": total,
        "tokens_per_step": MICRO_BATCH * SEQUENCE,
    }


def torchtitan_step(
    shape: dict[str, Any], options: set[str]
) -> tuple[Any, dict[str, Any]]:
    """The same work with torchtitan 0.2.2's models, compiled as it compiles them."""
    import torch
    from torchtitan.components.loss import cross_entropy_loss
    from torchtitan.config.job_config import Compile

    if "experts" in shape:
        from torchtitan.models.llama4.infra.parallelize import apply_compile
        from torchtitan.models.moe import MoEArgs
        from torchtitan.models.qwen3.model.args import Qwen3ModelArgs
        from torchtitan.models.qwen3.model.model import Qwen3Model

        routed = MoEArgs(
            num_experts=shape["experts"],
            num_shared_experts=0,
            top_k=shape["top_k"],
            score_func="softmax",
            route_norm=True,
            score_before_experts=False,
            load_balance_coeff=None,
        )
        arguments: Any = Qwen3ModelArgs(
            dim=shape["hidden"],
            n_layers=shape["layers"],
            n_heads=shape["heads"],
            n_kv_heads=shape["kv"],
            vocab_size=shape["vocab"],
            head_dim=shape["head_dim"],
            qk_norm=False,
            max_seq_len=SEQUENCE,
            moe_enabled=True,
            moe_inter_dim=shape["ffn"],
            moe_args=routed,
        )
        with torch.device("cuda"):
            model: Any = Qwen3Model(arguments)
    else:
        from torchtitan.models.llama3.infra.parallelize import apply_compile
        from torchtitan.models.llama3.model.args import TransformerModelArgs
        from torchtitan.models.llama3.model.model import Transformer

        arguments = TransformerModelArgs(
            dim=shape["hidden"],
            n_layers=shape["layers"],
            n_heads=shape["heads"],
            n_kv_heads=shape["kv"],
            vocab_size=shape["vocab"],
            ffn_dim_multiplier=1.5,
            multiple_of=256,
            rope_theta=500000,
            max_seq_len=SEQUENCE,
        )
        with torch.device("cuda"):
            model = Transformer(arguments)
    with torch.no_grad():
        model.init_weights(buffer_device=torch.device("cuda"))
    if "skewed" in options:
        for layer in model.layers.values():
            skew_(layer.moe.router.gate.weight.data)
    loss_of = cross_entropy_loss
    if "compile" in options:
        compiling = Compile(enable=True)
        if "experts" in shape:
            apply_compile(model, compiling, False)
        else:
            apply_compile(model, compiling)
        loss_of = torch.compile(cross_entropy_loss)
    world, mixed = 1, torch.autocast("cuda", torch.bfloat16)
    if "fsdp2" in options:  # FSDP2 itself hands the blocks weights in bfloat16
        world = torchtitan_sharded(model, "experts" in shape)
        mixed = torch.autocast("cuda", enabled=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()
    accumulate = accumulated(options)
    data = [random_batch(shape["vocab"], i) for i in range(4 * accumulate)]
    tokens = MICRO_BATCH * SEQUENCE * accumulate * world

    def step(i: int) -> Any:
        total = None
        for j in range(accumulate):
            batch = data[(i * accumulate + j) % len(data)]
            with mixed:
                loss = loss_of(model(batch.input_ids), batch.labels) / tokens
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    parameters = sum(p.numel() for p in model.parameters())
    return step, {"parameters": parameters, "tokens_per_step": tokens}


def torchtitan_sharded(model: Any, routed: bool) -> int:
    """Shard torchtitan's compiled model in place as it does; the number of ranks."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    if routed:
        from torchtitan.models.llama4.infra.parallelize import apply_fsdp
    else:
        from torchtitan.models.llama3.infra.parallelize import apply_fsdp

    if not dist.is_initialized():
        device = torch.device("cuda", torch.cuda.current_device())
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    world = dist.get_world_size()
    mesh = init_device_mesh("cuda", (world,))
    apply_fsdp(
        model,
        mesh,
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        pp_enabled=False,
    )
    return world
