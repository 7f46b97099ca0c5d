"""From a folder to a network and its tokenizer: a run, a checkpoint, an export."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from lumina.assemble.logical import join_fused
from lumina.data.recorded_encoding import change_in_words
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.precisions import INFERENCE_PRECISIONS, find_inference_precision
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.model.network import Network
from lumina.model.stored import declared_tensors, storable, store
from lumina.ops.low_bits.codec import Codec, Packed, found_codec
from lumina.state.adapters.named import with_adapters
from lumina.state.reader import OnEvent
from lumina.state.task_heads import one_task
from lumina.state.weights import Weights, Which, open_weights

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "int4"]
"""What a model is used in; `lumina.infer.precisions` says what each is."""

Model = str | os.PathLike[str] | Network | tuple[Network, Tokenizer]
"""A run, a checkpoint or an exported folder; or what `lumina.load` returns of one."""


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    *,
    precision: Precision | None = None,
    which: Which = "latest",
    ema: bool = False,
    task: str | None = None,
    adapters: Sequence[str] = (),
    beside: bool = False,
    on_event: OnEvent | None = None,
) -> tuple[Network, Tokenizer]:
    """A trained network in evaluation mode, and its tokenizer.

    Args:
        path: a run directory, a checkpoint in it, or an exported (Hugging Face) folder.
        device: "auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1".
        dtype: of weights and activations, or its name; None keeps float32.
        precision: in place of `dtype`: "auto" is bf16 on GPUs that have it, else fp32;
            "int8" keeps the large matrices in 8 bits and computes as "auto".
        which: of a run, the newest good checkpoint or the best evaluated one.
        ema: take the moving average of the weights.
        task: of a model of several tasks, take this one's head alone; None keeps all,
            for `logits(..., task_id=...)`.
        adapters: folders of adapters in PEFT's format, or runs that trained adapters;
            "FOLDER=0.5" adds half of one. They are merged into the weights in float32,
            but stay beside those that are held in few bits.
        beside: keep adapters beside the weights in any case, so that
            `lumina.infer.adapters.switch` can switch them.
        on_event: called for damaged checkpoints that were passed over, and what was
            assumed about the tokenizer.

    Raises:
        LuminaError: E005 no such task, E104 nothing there, E101 not a folder of these
            kinds, E304 a run without (such) a checkpoint, E303 damaged, E002 no
            average was kept, E003 no such device or precision; E002 also for a model
            of puzzles, which has no tokenizer (`load_solver`).
    """
    dtype = _dtype(dtype)
    entry = INFERENCE_PRECISIONS.get(precision or "")
    few = entry is not None and entry.codec is not None
    weights = open_weights(path, which, ema=ema, piecewise=few, on_event=on_event)
    try:
        beside = beside or in_few_bits(weights, precision, device)
        weights = with_adapters(weights, adapters, beside=beside, on_event=on_event)
        if weights.spec.solves_puzzles:
            raise LuminaError(
                "E002",
                f"the model in {path} solves puzzles: it answers no prompts",
                "in Python, lumina.infer.load.load_solver(path).logits(puzzles) does",
            )
        return load_weights(
            weights, device, dtype, precision=precision, task=task, on_event=on_event
        )
    finally:
        weights.close()


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    """A type of floating point, which may be given by its name."""
    if given is None or given == "auto":
        return None
    found = getattr(torch, given, None) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise LuminaError(
            "E005",
            f"dtype {given!r} is no type of floating point",
            "give torch.float32, torch.bfloat16 or torch.float16; int8 and int4 are "
            "a precision",
        )
    return found


def in_few_bits(weights: Weights, precision: str | None, device: str) -> bool:
    """Whether large matrices are, or will be, held in few bits."""
    if getattr(weights.source, "packed", {}):
        return True
    if precision is None:
        return False
    _, entry = find_inference_precision(precision, find_device(device))
    return entry.codec is not None


def load_weights(
    weights: Weights,
    device: str = "auto",
    dtype: torch.dtype | None = None,
    *,
    precision: Precision | None = None,
    task: str | None = None,
    on_event: OnEvent | None = None,
) -> tuple[Network, Tokenizer]:
    """`load` for weights of a language model that are open already."""
    place = find_device(device)
    if task is not None:
        weights = one_task(weights, task)
    tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
    if on_event is not None:
        for note in tokenizer.notes:
            on_event("tokenizer", "info", None, note, None)
        if changed := change_in_words(weights.encoding, tokenizer):
            on_event("tokenizer", "warning", None, changed, None)
    codec = None
    if precision is not None:
        dtype, entry = find_inference_precision(precision, place)
        codec = None if entry.codec is None else found_codec(entry.codec)
    network = filled_network(weights, place, dtype or torch.float32, codec).eval()
    network.tokenizer = tokenizer
    return network, tokenizer


def with_tokenizer(
    model: Network | tuple[Network, Tokenizer],
) -> tuple[Network, Tokenizer]:
    """A loaded model and its tokenizer.

    Raises:
        LuminaError: E002 for a model that came without one, E005 for what is no model.
    """
    network, tokenizer = model if isinstance(model, tuple) else (model, None)
    if not isinstance(network, Network):
        raise LuminaError(
            "E005",
            f"a model of type {type(network).__name__} is not one of Lumina's",
            "give a run, or what lumina.load(run) returns",
        )
    tokenizer = tokenizer or network.tokenizer
    if tokenizer is None:
        raise LuminaError(
            "E002",
            "the model was built without a tokenizer, so texts mean nothing to it",
            "give (model, tokenizer), or what lumina.load(run) returns",
        )
    return network, tokenizer


def load_solver(
    path: str | os.PathLike[str],
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    *,
    which: Which = "latest",
    ema: bool = False,
) -> Network:
    """A trained model of puzzles in evaluation mode; arguments and errors as `load`.

    Its `logits` of puzzles [B, 81] (1 an empty cell, 2 to 10 the digits) have their
    maximum at the solution, after every segment.
    """
    place = find_device(device)
    weights = open_weights(path, which, ema=ema)
    try:
        return filled_network(weights, place, dtype).eval()
    finally:
        weights.close()


def find_device(name: str) -> torch.device:
    """The device a name means.

    Raises:
        LuminaError: E003 when it is not there, E005 when it is no device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise LuminaError("E003", "there is no mps: no Apple GPU", "use --device cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LuminaError(
            "E005", f"{name!r} is not a device", "give auto, cpu, cuda or cuda:1"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LuminaError(
            "E003",
            f"there is no {name}: {torch.cuda.device_count()} CUDA devices were found",
            "use --device cpu",
        )
    return device


@torch.no_grad()
def filled_network(
    weights: Weights,
    device: torch.device,
    dtype: torch.dtype,
    codec: Codec | None = None,
) -> Network:
    """The network on its device; parameters in `dtype`, buffers as they are.

    Args:
        weights: are read one tensor at a time.
        device: where the network lives.
        dtype: of weights and activations.
        codec: holds the matrices of linear layers and experts in few bits. None: those
            are in few bits that the weights hold so.
    """
    network = build_network(weights.spec, device="meta")
    pieces = fused_pieces(weights.spec)
    packed: Mapping[str, Packed] = getattr(weights.source, "packed", {})
    codecs = {}
    for name, logical in storable(weights.spec, network).items():
        found = {packed[piece].codec if piece in packed else "" for piece in logical}
        if codec is not None:
            codecs[name] = codec
        elif len(found) == 1 and found != {""}:  # of several, one would be rounded anew
            codecs[name] = found_codec(found.pop())
    stored = store(network, codecs)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    network.to_empty(device=device)
    network.backbone.compute_dtype = dtype
    if hasattr(network.backbone, "skips_halted"):
        network.backbone.skips_halted = True
    network.reset_buffers()
    weights.check_names()
    for one in stored.values():
        for name in one.names:
            held = packed.get(name)
            if held is None or held.codec != one.codec.name:
                held = one.codec.pack(weights.source.tensor(name))
            one.fill(name, held)
    for name, tensor in declared_tensors(network).items():
        value = join_fused(name, pieces, weights.source.tensor)
        if value.shape != tensor.shape:
            raise LuminaError(
                "E303",
                f"{name} has shape {list(value.shape)}, not {list(tensor.shape)}",
                "the weights do not fit their own description; use other ones",
            )
        tensor.copy_(value)
        del value  # before the next one is read
    return network
