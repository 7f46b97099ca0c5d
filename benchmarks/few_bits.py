"""What a base in few bits costs and saves: bytes and time of a step of adapters.

    python benchmarks/few_bits.py --width 4096 --layers 4 --length 4096

One network after another with the same random weights, whose frozen matrices are wide
or held by a codec; adapters of rank 32 stand on all of them. Each line is one JSON
object: bytes of the network, peak bytes and seconds of a forward and backward pass, and
how far the loss is from that of the wide matrices. On a CPU there is no peak.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace

import torch

from lumina.assemble.logical import split_fused
from lumina.batch import Batch
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.model.stored import storable, store
from lumina.ops.low_bits.codec import CODECS, found_codec


def made(spec: ModelSpec, codec: str, device: str, dtype: torch.dtype) -> Network:
    """A network whose matrices are held by a codec; "" leaves them wide."""
    network = build_network(spec, device="cpu", seed=0)
    if codec:
        pieces, few = fused_pieces(spec), found_codec(codec)
        wide = {name: network.get_parameter(name) for name in storable(spec, network)}
        with torch.no_grad():
            for name, stored in store(network, dict.fromkeys(wide, few)).items():
                for logical, part in split_fused(name, wide[name], pieces).items():
                    stored.fill(logical, few.pack(part))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(".adapters." in name)
        parameter.data = parameter.data.to(dtype)
    network.backbone.compute_dtype = dtype
    return network.to(device).train()


def measured(network: Network, batch: Batch, steps: int) -> dict[str, float]:
    """Bytes, peak and seconds of a step, the best of some."""
    cuda = next(network.parameters()).is_cuda
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        begin = time.perf_counter()
        losses, _ = network(batch)
        losses.loss_sum.backward()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    held = (*network.parameters(), *network.buffers())
    return {
        "network_bytes": sum(tensor.nbytes for tensor in held),
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else 0,
        "seconds": min(seconds),
        "loss": float(losses.loss_sum.detach() / losses.weight_sum),
    }


def main() -> None:
    """Measure every codec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    adapter = AdapterSpec(rank=32, alpha=64.0, targets=("full",))
    spec = ModelSpec(
        vocab_size=1024,
        padded_vocab_size=1024,
        hidden_size=args.width,
        intermediate_size=7 * args.width // 2,
        num_layers=args.layers,
        num_heads=args.width // 64,
        num_kv_heads=args.width // 64,
        head_dim=64,
        seq_length=args.length,
    )
    spec = replace(spec, adapters=(adapter,))
    ids = torch.randint(1024, (1, args.length + 1), device=device)
    batch = Batch.from_rows(ids[:, :-1], ids[:, 1:])
    for codec in ("", *CODECS.known()):
        network = made(spec, codec, device, dtype)
        print(
            json.dumps(
                {"codec": codec or str(dtype), **measured(network, batch, args.steps)}
            ),
            flush=True,
        )
        del network


if __name__ == "__main__":
    main()
