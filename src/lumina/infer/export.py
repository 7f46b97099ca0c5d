"""A trained model as a folder for other tools: transformers, ONNX, TorchScript.

Every folder has the weights, the tokenizer, the configuration and `export.json`: what
it is, what its inputs are, and the length and digest of every file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lumina.data.recorded_encoding import change_in_words
from lumina.data.tokenizer import Tokenizer
from lumina.durable import free_bytes, sha256_of, write_file
from lumina.errors import LuminaError
from lumina.infer.calibrated import OnBlock
from lumina.infer.graph import Graph, past_shapes, require_graph
from lumina.infer.graph_files import (
    FILES,
    input_names,
    open_graph,
    output_names,
    require_tools,
    run_in_pieces,
    write_graph,
)
from lumina.infer.load import filled_network
from lumina.infer.quantising import Looked, Quantising, facts_of, stored_as
from lumina.infer.small_loss import SmallLoss, measure_small
from lumina.measure.held_out import OnRows
from lumina.model.kinds.table import kinds_of
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.state.adapters.attached import taken_apart
from lumina.state.adapters.merging import merged
from lumina.state.adapters.named import read_named
from lumina.state.huggingface import export_folder
from lumina.state.huggingface.configuration import config_of
from lumina.state.huggingface.export import DTYPES
from lumina.state.huggingface.formats import FORMATS, choose, fits
from lumina.state.huggingface.staging import require_unused, staged
from lumina.state.task_heads import one_task
from lumina.state.weights import Weights, Which, open_weights

KINDS = ("huggingface", *FILES)
"""What `format` may be, beside a family of `FORMATS`."""

TOLERANCE = 1e-4
"""Most that a written graph's logits may differ from the model's."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        title: the format in words.
        description: of the weights.
        bytes: of all files together.
        difference: largest difference of the written graph's logits from the model's;
            None where nothing was run: a folder for transformers, or no onnxruntime.
        small: what few bits cost; None without `quantize`.
        looked: what GPTQ found; None without it.
        changed: what became of the run's tokenizer since it trained; None: nothing.
    """

    folder: Path
    title: str
    description: str
    bytes: int
    difference: float | None = None
    small: SmallLoss | None = None
    looked: Looked | None = None
    changed: str | None = None


@dataclass(frozen=True)
class _Wanted:
    """The choices of one export."""

    kind: str
    family: str | None
    few: Quantising | None
    compiled: bool
    dtype: str
    eval_data: list[str] = field(default_factory=list)


def export_for_inference(
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    format: str = "huggingface",
    quantize: bool = False,
    bits: int = 8,
    compile: bool = False,
    dtype: str = "float32",
    eval_data: list[str] | None = None,
    which: Which = "latest",
    ema: bool = False,
    task: str | None = None,
    adapters: Sequence[str] = (),
    quantization_method: str | None = None,
    group_size: int = 128,
    act_order: bool = False,
    symmetric: bool = False,
    true_sequential: bool = False,
    calibration_data: Sequence[str] = (),
    calibration_rows: int = 128,
    on_rows: OnRows | None = None,
    on_block: OnBlock | None = None,
) -> Exported:
    """Write a run's model, with its tokenizer and configuration, for other tools.

    Args:
        run: a run directory, a checkpoint in it, or an exported folder.
        folder: the new folder; appears whole or not at all.
        format: "huggingface" (the first family that holds the model), a family such as
            "llama", or a graph: "onnx", "torchscript", "torch_export".
        quantize: store large matrices with `bits` bits; for transformers' folders.
        bits: 8; of gptq 4, 3, 2 or 8.
        compile: of "torch_export", machine code for this processor.
        dtype: "float32", "bfloat16" or "float16"; graphs are float32.
        eval_data: texts to measure on what 8 bits cost; the run's own held-out text
            where it is still there.
        which: of a run, the newest good checkpoint or the best evaluated one.
        ema: take the moving average of the weights.
        task: of a model of several tasks, the one to export.
        adapters: folders of adapters that are merged into the weights first, as
            `lumina.load` takes them; so are those that the run itself trained.
        quantization_method: None rounds to 8 bits with a scale for each row; "gptq"
            chooses the codes by looking at text (arXiv:2210.17323).
        group_size: of gptq, inputs that share a scale; -1: all of a row.
        act_order: of gptq, take the inputs of the greatest power first.
        symmetric: of gptq, ranges that reach as far below 0 as above it.
        true_sequential: of gptq, code each matrix on what the coded ones before it in
            its block leave.
        calibration_data: of gptq, texts to look at; what the run learned from where
            none is named.
        calibration_rows: of gptq, rows of them.
        on_rows: called with the progress of measuring what few bits cost.
        on_block: called with the blocks that gptq has done, and all.

    Raises:
        LuminaError: E002 for what a format cannot hold, by name, for choices that do
            not go together and for a folder in use; E003 when a tool is missing; E005
            for unknown formats, bits, tasks; E003 when a written graph computes
            something else; E104, E106, E204 and E303 for files.
    """
    few = Quantising(
        quantization_method,
        bits,
        group_size,
        act_order,
        symmetric,
        true_sequential,
        tuple(calibration_data),
        calibration_rows,
        on_block,
    )
    if not quantize and few != Quantising():
        raise LuminaError(
            "E002",
            "options of weights in few bits are given without --quantize",
            "add it, or leave them out",
        )
    wanted = _wanted(format, few if quantize else None, compile, dtype, eval_data)
    target = Path(folder).expanduser()
    require_unused(target)
    weights = open_weights(run, which, ema=ema)
    try:
        weights = one_task(weights, task)
        weights, own = taken_apart(weights)
        weights = merged(weights, [*own, *read_named(adapters, weights.spec)])
        if wanted.kind in FILES:
            return _graph_folder(weights, target, wanted)
        return _folder_for_transformers(weights, target, wanted, on_rows)
    finally:
        weights.close()


def _wanted(
    format_name: str,
    few: Quantising | None,
    compiled: bool,
    dtype: str,
    eval_data: list[str] | None,
) -> _Wanted:
    """The choices, checked against each other before anything is opened."""
    if format_name not in KINDS and format_name not in FORMATS:
        raise LuminaError(
            "E005",
            f"unknown format {format_name!r}",
            f"choose one of {', '.join((*KINDS, *FORMATS))}",
        )
    graph = format_name in FILES
    if few is not None:
        few.check()
    if few is not None and graph:
        raise _apart(f"the {format_name} graph", "quantize", "leave it out, or export")
    if compiled and format_name != "torch_export":
        raise LuminaError(
            "E002",
            f"the format {format_name} does not go with compile",
            "leave it out, or use --format torch_export",
        )
    if dtype != "float32" and graph:
        raise _apart(
            f"the {format_name} graph", f"dtype {dtype}", "use float32, or export"
        )
    if eval_data and few is None:
        raise LuminaError(
            "E002",
            "--eval-data does nothing without --quantize",
            "add --quantize, whose loss it measures, or leave --eval-data out",
        )
    family = format_name if format_name in FORMATS else None
    kind = format_name if family is None else "huggingface"
    return _Wanted(kind, family, few, compiled, dtype, eval_data or [])


def _apart(what: str, option: str, hint: str) -> LuminaError:
    return LuminaError(
        "E002", f"{what} does not go with {option}", f"{hint} for transformers"
    )


def _folder_for_transformers(
    weights: Weights, target: Path, wanted: _Wanted, on_rows: OnRows | None
) -> Exported:
    """Safetensors that `AutoModelForCausalLM.from_pretrained` loads."""
    row = choose(weights.spec, wanted.family)
    weights.check_names()
    tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
    small = None
    facts: dict[str, Any] = {"family": row.name, "dtype": wanted.dtype}
    if wanted.dtype not in DTYPES:
        raise LuminaError(
            "E005",
            f"unknown dtype {wanted.dtype!r}",
            f"choose one of {', '.join(DTYPES)}",
        )
    dtype = DTYPES[wanted.dtype]
    stored, looked = stored_as(weights, tokenizer, wanted.few, dtype)
    with staged(target) as partial:
        export_folder(
            (weights.spec, weights.source.tensor),
            tokenizer,
            partial,
            dtype=wanted.dtype,
            format_name=row.name,
            stored=stored,
        )
        if wanted.few is not None:
            small = measure_small(
                weights, partial, tokenizer, wanted.eval_data, on_rows
            )
            facts |= facts_of(wanted.few, looked) | {"measured": small.to_dict()}
        _write_facts(partial, {"format": "huggingface"} | facts, weights)
    return Exported(
        target,
        row.title,
        weights.description,
        _bytes_in(target),
        small=small,
        looked=looked,
        changed=change_in_words(weights.encoding, tokenizer),
    )


def _graph_folder(weights: Weights, target: Path, wanted: _Wanted) -> Exported:
    """A graph, the tokenizer, a configuration."""
    require_graph(weights.spec)
    require_tools(wanted.kind, wanted.compiled)
    tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
    network = _plain_network(weights)
    spec = network.spec
    _require_space(network, target)
    ids = torch.randint(spec.vocab_size, (3, 9), generator=_generator())
    with torch.no_grad():
        expected = network.logits(ids)
    with staged(target) as partial:
        path = write_graph(Graph(network), partial, wanted.kind, wanted.compiled)
        difference = None
        if run := open_graph(path, spec, wanted.compiled):
            # Rows, lengths and a past that the graph was not made with.
            parts = [(run_in_pieces(run, spec, ids[:n], cut), n) for n, cut in _TRIALS]
            found = [(got - expected[:n]).abs().max().item() for got, n in parts]
            difference = max(found)
            if not difference <= TOLERANCE:
                raise LuminaError(
                    "E003",
                    f"the {wanted.kind} graph's logits differ by {difference:.2g} from "
                    f"the model's, more than {TOLERANCE:g}",
                    "nothing was written; please report it with the model's options",
                )
        tokenizer.save(partial)
        config = _configuration(spec, tokenizer)
        write_file(partial / "config.json", _json(config))
        facts: dict[str, Any] = {
            "format": wanted.kind,
            "compiled": wanted.compiled,
            "dtype": "float32",
            "logits_difference": difference,
            "inputs": input_names(spec),
            "outputs": output_names(spec),
            "past": {name: [heads, width] for name, heads, width in past_shapes(spec)},
        }
        _write_facts(partial, facts, weights)
    title = {"onnx": "ONNX", "torchscript": "TorchScript"}.get(
        wanted.kind, "torch.export"
    )
    if wanted.compiled:
        title += ", compiled for this processor"
    return Exported(
        target,
        title,
        weights.description,
        _bytes_in(target),
        difference=difference,
        changed=change_in_words(weights.encoding, tokenizer),
    )


_TRIALS = ((1, 1), (1, 8), (3, 5))
"""Rows, and the tokens of the first piece, that a written graph is tried with."""


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _plain_network(weights: Weights) -> Network:
    """In float32 on the CPU; that experts trained alone is nothing to a graph."""
    spec = weights.spec
    for kind in kinds_of(spec):
        spec = kind.answering(spec)
    return filled_network(
        replace(weights, spec=spec), torch.device("cpu"), torch.float32
    ).eval()


def _require_space(network: Network, target: Path) -> None:
    needed = sum(tensor.nbytes for tensor in network.state_dict().values())
    place = next(one for one in target.absolute().parents if one.is_dir())
    if needed > free_bytes(place):
        raise LuminaError(
            "E204",
            f"the weights take {needed:,} bytes, {place} has {free_bytes(place):,}",
            "free some disk space, or name a folder on another disk",
        )


def _configuration(spec: ModelSpec, tokenizer: Tokenizer) -> dict[str, Any]:
    """transformers' where a family holds the model, else Lumina's shape."""
    for row in FORMATS.values():
        if fits(spec, row):
            ids = (tokenizer.bos_id, tokenizer.eos_token_id)
            return config_of(spec, row, "float32", *ids)
    return {"model_type": "lumina", **spec.to_dict()}


def _write_facts(folder: Path, facts: dict[str, Any], weights: Weights) -> None:
    """`export.json`, last: it lists every other file."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.iterdir())
    }
    facts = facts | {
        "weights": weights.description,
        "spec": weights.spec.to_dict(),
        "torch": torch.__version__,
        "files": files,
    }
    write_file(folder / "export.json", _json(facts))


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
