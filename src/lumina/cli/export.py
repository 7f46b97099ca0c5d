"""`lumina export RUN FOLDER`: a run's model for transformers, or as a graph."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from lumina.cli.answering import INFERENCE_PRECISIONS, add_adapter_option, row_progress

if TYPE_CHECKING:
    from lumina.infer.small_loss import SmallLoss

DTYPES = ("float32", "bfloat16", "float16")

LOADING = {
    "onnx": "onnxruntime.InferenceSession('{}/model.onnx')",
    "torchscript": "torch.jit.load('{}/model.ts')",
    "torch_export": "torch.export.load('{}/model.pt2').module(), or, compiled, "
    "torch._inductor.aoti_load_package('{}/model.pt2')",
}
"""Graph -> the call that opens its file; {} stands for the folder."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run directory, or one of its checkpoints")
    parser.add_argument("folder", help="the new folder")
    parser.add_argument(
        "--format",
        dest="format_name",
        metavar="NAME",
        default="huggingface",
        help="huggingface: for transformers, of the first family that holds the model; "
        "or a family (model_type), such as llama, mistral, qwen3 or olmoe; or a "
        "graph: onnx, torchscript, torch_export; default: huggingface",
    )
    parser.add_argument(
        "--quantize",
        action="store_true",
        help="store the large matrices with 8 bits, one scale for each of their rows",
    )
    parser.add_argument(
        "--bits",
        "--quantization-bits",
        type=int,
        metavar="N",
        help="with --quantize: bits of a number; default and only: 8; of gptq: 4 "
        "(default), 3, 2 or 8",
    )
    parser.add_argument(
        "--quantization-method",
        choices=("gptq", "bnb", "quanto"),
        help="with --quantize: gptq chooses the numbers by what they do to texts, "
        "which costs less than rounding in the same bits; for bnb and quanto it says "
        "where they are used",
    )
    parser.add_argument(
        "--group-size",
        type=int,
        default=128,
        metavar="N",
        help="of gptq: inputs that share a scale, a multiple of 32; -1: all of a row; "
        "default: 128",
    )
    parser.add_argument(
        "--act-order",
        action="store_true",
        help="of gptq: take the inputs of the greatest power first",
    )
    parser.add_argument(
        "--symmetric",
        action="store_true",
        help="of gptq: ranges that reach as far below 0 as above it, for programs that "
        "know no other zero point than the middle code",
    )
    parser.add_argument(
        "--true-sequential",
        action="store_true",
        help="of gptq: code the matrices of a block one after the other, each on what "
        "those before it leave; a block runs once for each of them",
    )
    parser.add_argument(
        "--calibration-data",
        action="append",
        metavar="PATH",
        help="of gptq: texts to look at; default: what the run learned from",
    )
    parser.add_argument(
        "--calibration-rows",
        type=int,
        default=128,
        metavar="N",
        help="of gptq: rows of them, of 2,048 tokens at most; default: 128",
    )
    parser.add_argument(
        "--eval-data",
        action="append",
        metavar="PATH",
        help="with --quantize: texts to measure its cost on; default: the run's own "
        "held-out text",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="with --format torch_export: machine code for this processor",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="type of the weights; default: float32, which loses nothing",
    )
    parser.add_argument(
        "--inference-precision",
        choices=tuple(name for name in INFERENCE_PRECISIONS if name != "auto"),
        help="another name for both: fp32, bf16 and fp16 for --dtype, int8 for "
        "--quantize",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the best evaluated checkpoint, not the last",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="of a model of several tasks, the one to export"
    )
    parser.add_argument(
        "--ema", action="store_true", help="the averaged weights, where a run kept them"
    )
    add_adapter_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how to load it."""
    from lumina.errors import LuminaError
    from lumina.infer.export import export_for_inference

    _take_precision(args)
    if args.bits is not None and not args.quantize:
        raise LuminaError(
            "E002",
            "--bits does nothing without --quantize",
            "add --quantize, or leave --bits out",
        )
    bits = args.bits or (4 if args.quantization_method == "gptq" else 8)
    done = export_for_inference(
        args.run,
        args.folder,
        format=args.format_name,
        quantize=args.quantize,
        bits=bits,
        compile=args.compile,
        dtype=args.dtype or "float32",
        eval_data=args.eval_data,
        which="best" if args.best else "latest",
        ema=args.ema,
        task=args.task,
        adapters=args.adapter,
        quantization_method=args.quantization_method,
        group_size=args.group_size,
        act_order=args.act_order,
        symmetric=args.symmetric,
        true_sequential=args.true_sequential,
        calibration_data=args.calibration_data or (),
        calibration_rows=args.calibration_rows,
        on_rows=row_progress(),
    )
    rest = args.dtype or "float32"
    kind = f"{bits} bits, the rest {rest}" if done.small else rest
    print(
        f"{done.folder}: {done.description} as {done.title}, {kind}, "
        f"{done.bytes / 1e6:,.1f} MB with its tokenizer"
    )
    if done.changed is not None:
        print(f"warning: {done.changed}", file=sys.stderr)
    if done.looked is not None:
        print(done.looked)
    if done.small is not None:
        print(_cost(done.small))
    if args.format_name in LOADING:
        print(_checked(done.difference))
        call = LOADING[args.format_name].replace("{}", str(done.folder))
        print(f"load it with {call}; inputs: {done.folder}/export.json")
    else:
        print(
            "load it with transformers: "
            f"AutoModelForCausalLM.from_pretrained('{done.folder}')"
        )
    return 0


def _take_precision(args: argparse.Namespace) -> None:
    """Write `--inference-precision` as the options that it stands for.

    Raises:
        LuminaError: E002 beside one of them, E003 for what cannot be written.
    """
    from lumina.errors import LuminaError

    name = args.inference_precision
    if name is None:
        return
    if args.dtype is not None or args.quantize:
        raise LuminaError(
            "E002",
            f"--inference-precision {name} stands for --dtype or --quantize, which "
            "are given too",
            "leave one of them out",
        )
    import torch

    from lumina.infer.precisions import find_inference_precision

    dtype, entry = find_inference_precision(name, torch.device("cpu"))
    if entry.codec not in (None, "int8"):
        raise LuminaError(
            "E003",
            f"--inference-precision {name}: no format of a folder holds {entry.codec} "
            "here",
            f"use int8; generate, chat and evaluate take {name} of any model",
        )
    args.quantize = entry.codec is not None
    args.dtype = str(dtype).removeprefix("torch.")


def _cost(small: SmallLoss) -> str:
    """What few bits cost, in a line."""
    said = (
        f"logits differ by {small.mean:.2g} on average and {small.largest:.2g} at most "
        f"(they spread by {small.spread:.2g}), on {small.measured_on}"
    )
    if small.perplexity is not None:
        before, after = small.perplexity
        said += f"; perplexity {before:,.4g} before, {after:,.4g} after"
    return said


def _checked(difference: float | None) -> str:
    """Whether the graph was run, in a line."""
    if difference is None:
        return "not run: onnxruntime is not installed (pip install onnxruntime)"
    return f"read back and run: logits differ by {difference:.2g} at most"
