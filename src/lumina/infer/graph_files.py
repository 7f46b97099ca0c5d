"""A network's graph as a file: ONNX, TorchScript, a torch.export program, machine code.

Number of rows, of new tokens and of earlier tokens are free in all of them.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from lumina.errors import LuminaError
from lumina.infer.graph import Graph, past_shapes, sample_inputs
from lumina.model.spec import ModelSpec
from lumina.packages import installed

ONE_FILE_BYTES = 1_500_000_000
"""Larger weights lie beside an ONNX graph: a file of its format holds 2 GB at most."""

PLAIN_PROGRAM = (2, 13)
"""From this torch on, a torch.export program takes rows of any number, one included."""

FILES = {
    "onnx": "model.onnx",
    "torchscript": "model.ts",
    "torch_export": "model.pt2",
}
"""Format -> name of the file."""

Run = Callable[[Tensor, Tensor, Tensor, list[Tensor]], Sequence[Tensor]]
"""A graph read back: arguments and results as `Graph.forward`."""


def require_tools(format_name: str, compiled: bool) -> None:
    """Refuse (E003) what this machine cannot write, before anything is read."""
    lacking = [
        name
        for name in ("onnx", "onnxscript")
        if format_name == "onnx" and not installed(name)
    ]
    if lacking:
        raise LuminaError(
            "E003",
            f"ONNX files are written with {' and '.join(lacking)}, which is missing",
            "pip install 'luminaai[onnx]'",
        )
    compilers = [os.environ.get("CXX", "g++"), "c++", "clang++"]
    if compiled and not any(map(shutil.which, compilers)):
        raise LuminaError(
            "E003",
            "--compile needs a C++ compiler, and none was found",
            "install g++ or clang++, or set CXX; or leave out --compile",
        )
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if format_name == "torch_export" and not compiled and version < PLAIN_PROGRAM:
        raise LuminaError(
            "E003",
            f"torch {torch.__version__} fixes the number of rows in such a program",
            "use torch 2.13 or newer, or --compile, or another --format",
        )


def input_names(spec: ModelSpec) -> list[str]:
    """Of a graph, in order; as other ONNX tools call them."""
    past = [f"past_key_values.{name}" for name, _, _ in past_shapes(spec)]
    return ["input_ids", "attention_mask", "position_ids", *past]


def output_names(spec: ModelSpec) -> list[str]:
    """Of a graph, in order."""
    return ["logits", *(f"present.{name}" for name, _, _ in past_shapes(spec))]


def write_graph(graph: Graph, folder: Path, format_name: str, compiled: bool) -> Path:
    """Write the graph into `folder`.

    Args:
        graph: in float32 on the CPU.
        folder: exists.
        format_name: of `FILES`.
        compiled: of "torch_export", machine code for this processor (AOTInductor).
    """
    spec, path = graph.network.spec, folder / FILES[format_name]
    sample = sample_inputs(spec, 2, 3, 5)
    with torch.no_grad(), _quiet():
        if format_name == "onnx":
            _write_onnx(graph, sample, path)
        elif format_name == "torchscript":
            script = torch.jit.trace(graph, sample, check_trace=False)
            script.save(str(path))
        else:
            program = _captured(graph, sample)
            if compiled:
                torch._inductor.aoti_compile_and_package(
                    program, package_path=str(path)
                )
            else:
                torch.export.save(program, path)
    return path


def _captured(graph: Graph, sample: Any) -> Any:
    """The graph as torch.export sees it."""
    from torch.fx.experimental import _config as symbolic

    rows_tokens, past = (
        {0: Dim.DYNAMIC, 1: Dim.DYNAMIC},
        {0: Dim.DYNAMIC, 2: Dim.DYNAMIC},
    )
    shapes = (rows_tokens, rows_tokens, rows_tokens, [past] * len(sample[3]))
    # Without this, a graph would be for two rows and two tokens at least.
    with symbolic.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        return torch.export.export(graph, sample, dynamic_shapes=shapes, strict=False)


def _write_onnx(graph: Graph, sample: Any, path: Path) -> None:
    spec = graph.network.spec
    past = {0: "batch", 2: "past_sequence"}
    shapes = (
        {0: "batch", 1: "sequence"},
        {0: "batch", 1: "whole_sequence"},
        {0: "batch", 1: "sequence"},
        [past] * len(sample[3]),
    )
    program = torch.onnx.export(
        graph,
        sample,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=input_names(spec),
        output_names=output_names(spec),
        verbose=False,
    )
    size = sum(tensor.nbytes for tensor in graph.state_dict().values())
    assert program is not None
    program.save(str(path), external_data=size > ONE_FILE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks about their own insides."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def open_graph(path: Path, spec: ModelSpec, compiled: bool) -> Run | None:
    """The graph in a file, to be run; None where what runs it is not installed."""
    if path.suffix == ".onnx":
        if not installed("onnxruntime"):
            return None
        return _onnx_runner(path, spec)
    with _quiet():
        if path.suffix == ".ts":
            return torch.jit.load(str(path))  # type: ignore[no-any-return]
        if compiled:
            return torch._inductor.aoti_load_package(str(path))  # type: ignore[return-value]
        return torch.export.load(path).module()  # type: ignore[return-value]


def _onnx_runner(path: Path, spec: ModelSpec) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = input_names(spec)
    taken = {one.name for one in session.get_inputs()}

    def run(ids: Tensor, real: Tensor, positions: Tensor, past: list[Tensor]) -> Any:
        given = zip(names, (ids, real, positions, *past), strict=True)
        feed = {n: x.contiguous().numpy() for n, x in given if n in taken}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run


@torch.no_grad()
def run_in_pieces(run: Run, spec: ModelSpec, input_ids: Tensor, cut: int) -> Tensor:
    """Logits [B, S, V] of rows read in two pieces, the second with the first's keys."""
    rows, length = input_ids.shape
    past = [torch.zeros(rows, heads, 0, width) for _, heads, width in past_shapes(spec)]
    logits = []
    for begin, end in ((0, cut), (cut, length)):
        real = torch.ones(rows, end, dtype=torch.int64)
        positions = torch.arange(begin, end).expand(rows, -1).contiguous()
        ids = input_ids[:, begin:end].contiguous()
        out = run(ids, real, positions, past)
        logits.append(out[0])
        past = list(out[1:])
    return torch.cat(logits, dim=1)
