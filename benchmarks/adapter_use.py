"""What an adapter costs in use: merged, beside the weights, and beside few bits.

Random weights of a Llama shape with LoRA on every matrix of attention and feed-forward.
For each way: seconds of one forward pass over a prompt, seconds of a token that is
generated, and on a GPU the memory that is held. The ways take turns, so that a machine
that slows down slows all of them; printed are medians.

    python benchmarks/adapter_use.py --hidden 4096 --layers 32 --heads 32 --kv-heads 8 \
        --inner 14336 --dtype bfloat16 --device cuda --prompt 2048
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from lumina.assemble.logical import split_fused
from lumina.infer.generate import generate
from lumina.infer.load import filled_network
from lumina.model.adapters.sites import sites
from lumina.model.build import build_network
from lumina.model.declared import declared, fused_pieces
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.ops.low_bits.codec import found_codec
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.attached import attached
from lumina.state.adapters.merging import merged
from lumina.state.weights import InMemory, Weights


def weights_of(spec: ModelSpec) -> Weights:
    """Random weights."""
    network, pieces = build_network(spec, seed=0), fused_pieces(spec)
    tensors = {
        logical: value
        for name, tensor in network.state_dict().items()
        for logical, value in split_fused(name, tensor, pieces).items()
    }
    return Weights(spec, InMemory(tensors), None, None, "random")  # type: ignore[arg-type]


def adapter_of(spec: ModelSpec, rank: int) -> Adapter:
    """LoRA with random values on every matrix of the blocks."""
    pieces = {}
    for site in sites(declared(spec).values()):
        if not site.head:
            *_, rows, columns = site.shape
            tensors = {"a": torch.randn(rank, columns), "b": torch.randn(rows, rank)}
            scaled = {name: value * 0.02 for name, value in tensors.items()}
            pieces[site.logical] = Piece(scaled, rank, float(rank))
    return Adapter("random", "lora", pieces)


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of some work, all of it done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in (
        ("hidden", 256), ("layers", 4), ("heads", 4), ("kv-heads", 2), ("inner", 768),
        ("rank", 16), ("prompt", 256), ("tokens", 16), ("rounds", 5), ("vocab", 32000),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    spec = ModelSpec(
        vocab_size=args.vocab,
        padded_vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_layers=args.layers,
        num_heads=args.heads,
        num_kv_heads=args.kv_heads,
        head_dim=args.hidden // args.heads,
        intermediate_size=args.inner,
        seq_length=args.prompt + args.tokens,
    )
    base, adapter = weights_of(spec), [(adapter_of(spec, args.rank), 1.0)]
    few = found_codec("nf4")
    ways = {
        "no adapter": (base, None),
        "merged": (merged(base, adapter), None),
        "beside": (attached(base, adapter), None),
        "nf4, no adapter": (base, few),
        "nf4, beside": (attached(base, adapter), few),
    }
    networks: dict[str, Network] = {}
    for name, (weights, codec) in ways.items():
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        networks[name] = filled_network(weights, device, dtype, codec).eval()
        if device.type == "cuda":
            held = torch.cuda.memory_allocated(device) - before
            print(f"{name:<16} {held / 2**30:6.2f} GiB held")
    ids = torch.randint(args.vocab, (1, args.prompt), device=device)
    prompt = ids[0].tolist()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    for turn in range(args.rounds + 1):
        for name, network in networks.items():
            with torch.no_grad():
                forward = timed(device, lambda n=network: n.logits(ids))  # type: ignore[misc]
            whole = timed(
                device,
                lambda n=network: list(  # type: ignore[misc]
                    generate(n, prompt, temperature=0.0, max_new_tokens=args.tokens)
                ),
            )
            if turn:  # the first warms up
                found[name].append((forward, (whole - forward) / args.tokens))
    for name, rows in found.items():
        forward, token = (statistics.median(one) for one in zip(*rows, strict=True))
        print(f"{name:<16} forward {forward:.4f} s, a token {token * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
