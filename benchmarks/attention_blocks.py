"""Attention of one chunk to the keys before it: each kernel that there is, and none.

Printed are milliseconds of a forward and a backward pass, the floating point operations
of both per second (4 and 10 for each pair of numbers of a query and a key that sees
it), and the most bytes that a call takes beside its inputs.

    python benchmarks/attention_blocks.py --keys 32768 131072 --chunks 512 4096
    python benchmarks/attention_blocks.py --device cpu --keys 2048 --heads 4
"""

from __future__ import annotations

import argparse
import json
import time

import torch

from lumina.ops.attention import fused
from lumina.ops.attention.block_kernels.table import BLOCK_KERNELS, PLAIN
from lumina.ops.attention.blockwise import blockwise


def measured(
    kernel: str, inputs: list[torch.Tensor], window: int, repeats: int
) -> dict[str, float]:
    """Milliseconds and bytes of one kernel."""
    cuda = inputs[0].is_cuda

    def wait() -> float:
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    upstream = torch.randn_like(inputs[0])
    forward, backward = [], []
    for turn in range(repeats + 1):
        if cuda and turn == repeats:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begin = wait()
        out = blockwise(*inputs, None, window, kernel=kernel)
        middle = wait()
        torch.autograd.grad(out, inputs, upstream)
        end = wait()
        forward.append(middle - begin)
        backward.append(end - middle)
    found = {"forward_ms": 1000 * min(forward), "backward_ms": 1000 * min(backward)}
    if cuda:
        found["beside_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found


def main() -> None:
    """A line for each length, chunk and kernel."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--keys", type=int, nargs="+", default=[32_768, 131_072])
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--key-heads", type=int, default=0, help="default: heads / 4")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    fused.prefer_cudnn(args.device == "cuda")
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    groups = args.key_heads or max(1, args.heads // 4)
    for length in args.keys:
        for chunk in args.chunks:
            inputs = [
                torch.randn(
                    1, tokens, heads, args.width, device=args.device, dtype=dtype
                ).requires_grad_()
                for tokens, heads in ((chunk, args.heads), *[(length, groups)] * 2)
            ]
            seen = sum(
                min(length - i, args.window or length)
                for i in range(min(chunk, length))
            )
            names = [one for one in BLOCK_KERNELS.known() if one != "table"]
            for name in [*names, PLAIN]:
                kernel = BLOCK_KERNELS.found(name)
                if kernel is not None and not kernel.fits(inputs[0], False):
                    continue
                found = measured(name, inputs, args.window, args.repeats)
                work = 14 * seen * args.heads * args.width
                spent = found["forward_ms"] + found["backward_ms"]
                line = {"keys": length, "chunk": chunk, "kernel": name, **found}
                line["tflops"] = work / spent / 1e9
                print(json.dumps({k: _short(v) for k, v in line.items()}), flush=True)


def _short(value: float | str) -> float | str:
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
