"""Work A (Llama-3.2-1B shape) and Work B (OLMoE shape): models and batches."""

from __future__ import annotations

from typing import Any

SEQUENCE, MICRO_BATCH = 4096, 4
SHAPES: dict[str, dict[str, Any]] = {
    "A": dict(
        vocab=128256, hidden=2048, layers=16, heads=32, kv=8, head_dim=64, ffn=8192
    ),
    "B": dict(
        vocab=50304, hidden=2048, layers=8, heads=16, kv=16, head_dim=128, ffn=1024,
        experts=64, top_k=8,
    ),
}  # fmt: skip


def spec_of(shape: dict[str, Any], length: int) -> Any:
    """A shape of `SHAPES` as Lumina's, for rows of some length."""
    from lumina.model.spec import ModelSpec, MoeSpec

    moe = None
    if "experts" in shape:
        moe = MoeSpec(
            num_experts=shape["experts"],
            top_k=shape["top_k"],
            intermediate_size=shape["ffn"],
            layers=tuple(range(shape["layers"])),
        )
    return ModelSpec(
        vocab_size=shape["vocab"],
        padded_vocab_size=-(-shape["vocab"] // 64) * 64,
        hidden_size=shape["hidden"],
        num_layers=shape["layers"],
        num_heads=shape["heads"],
        num_kv_heads=shape["kv"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        seq_length=length,
        rope_theta=500000.0,
        moe=moe,
    )


def in_transformers(shape: dict[str, Any], length: int) -> dict[str, Any]:
    """A shape in the words of transformers' configurations, for rows of `length`."""
    return dict(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        max_position_embeddings=length,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


def accumulated(options: set[str]) -> int:
    """Micro-batches of a step: of the option accum8 eight."""
    return next((int(o[5:]) for o in options if o.startswith("accum")), 1)


def random_batch(vocab: int, seed: int) -> Any:
    """Rows of one document each, on the GPU."""
    import torch

    from lumina.batch import Batch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (MICRO_BATCH, SEQUENCE + 1), generator=generator)
    return Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).to("cuda")


def skew_(router_ed: Any) -> None:
    """Make some experts far more popular: rows scaled from a quarter to four times."""
    import torch

    experts = router_ed.shape[0]
    scale = torch.logspace(-2, 2, experts, base=2.0, device=router_ed.device)
    router_ed.mul_(scale[:, None].to(router_ed.dtype))
