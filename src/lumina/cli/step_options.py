"""Options of the step that gives each row a token, for the commands that generate."""

from __future__ import annotations

import argparse

from lumina.infer.decoding.settings import GRAPHS, KERNELS, StepSettings


def add_step_options(
    parser: argparse.ArgumentParser, *, rows: bool = True, guesses: bool = True
) -> None:
    """Declare how a step is run.

    Args:
        parser: of the command.
        rows: whether several texts may be continued side by side.
        guesses: whether a step may guess tokens ahead.
    """
    group = parser.add_argument_group("step of generation")
    group.add_argument(
        "--cuda-graph",
        choices=GRAPHS,
        default="auto",
        help="record a step as a CUDA graph and run it again, one launch for all its "
        "kernels; default: auto, on a GPU unless the model has to wait for the device",
    )
    group.add_argument(
        "--step-kernels",
        choices=KERNELS,
        default="auto",
        help="fused: kernels that take a norm, a product and what follows together, on "
        "a GPU in bf16 or fp16, for models of plain blocks with rotary positions; "
        "plain: those of training; default: auto, the fused ones where they fit",
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile blocks with torch.compile for prompts, and for steps that no "
        "fused kernels take; takes tens of seconds before the first answer, and a C++ "
        "compiler on the CPU",
    )
    if guesses:
        group.add_argument(
            "--speculate",
            type=int,
            default=0,
            metavar="N",
            help="guess N tokens in each step from what the text has said before, and "
            "keep those that the model says itself: the same answers, faster where "
            "texts repeat themselves; default: 0",
        )
    if rows:
        group.add_argument(
            "--batch-invariant",
            action="store_true",
            help="a text's answer depends to the last bit on nothing that is continued "
            "beside it: prompts are read one by one, and products add up in one order; "
            "slower where the fused kernels do not fit",
        )


def step_settings(args: argparse.Namespace) -> StepSettings:
    """The choice that the options make."""
    invariant = getattr(args, "batch_invariant", False)
    graph, kernels = args.cuda_graph, args.step_kernels
    guesses = getattr(args, "speculate", 0)
    return StepSettings(graph, kernels, invariant, guesses, compile=args.compile)
