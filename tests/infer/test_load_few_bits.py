"""Folders of weights that are read straight into few bits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from infer.networks import MOE, tiny
from lumina.errors import LuminaError
from lumina.infer.load import filled_network
from lumina.model.stored import stored_pieces
from lumina.ops.low_bits.codec import found_codec
from lumina.state.huggingface.export import export_folder
from lumina.state.weights import open_weights

PEAK = """
import json, sys, threading, time
import torch
from lumina.infer.load import filled_network
from lumina.ops.low_bits.codec import found_codec
from lumina.state.weights import open_weights

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(l.split()[1]) for l in file if l.startswith("RssAnon")) * 1024

found_codec("nf4_double").pack(torch.randn(64, 64))
before, most, done = anonymous(), [0], threading.Event()

def watch():
    while not done.is_set():
        most[0] = max(most[0], anonymous())
        time.sleep(0.001)

thread = threading.Thread(target=watch)
thread.start()
weights = open_weights(sys.argv[1], piecewise=True)
codec = found_codec("nf4_double")
network = filled_network(weights, torch.device("cpu"), torch.bfloat16, codec)
done.set()
thread.join()
held = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
print(json.dumps({"peak": most[0] - before, "held": held}))
"""


def test_a_folder_read_piece_by_piece_is_the_folder_read_at_once(
    tmp_path: Path,
) -> None:
    """The vocabulary is padded, and experts are stacked, in both."""
    full = tiny(moe=replace(MOE, layers=(0, 1, 2)))
    export_folder(full, None, tmp_path / "folder", dtype="bfloat16")
    whole, lazily = (
        open_weights(tmp_path / "folder", piecewise=piecewise)
        for piecewise in (False, True)
    )
    assert whole.spec == lazily.spec
    assert set(whole.source.names()) == set(lazily.source.names())
    for name in whole.source.names():
        assert torch.equal(whole.source.tensor(name), lazily.source.tensor(name)), name
    codec, place = found_codec("int4"), torch.device("cpu")
    network = filled_network(lazily, place, torch.float32, codec)
    for name, packed in stored_pieces(network).items():
        expected = codec.pack(whole.source.tensor(name)).unpacked()
        assert torch.equal(packed.unpacked(), expected), name
    lazily.close()


@pytest.mark.covers("MOD-40: weights loaded from local safetensors")
def test_a_damaged_tensor_is_found_as_it_is_read(tmp_path: Path) -> None:
    full = tiny()
    with torch.no_grad():
        full.get_parameter("backbone.blocks.1.attention.out.weight")[0, 0] = torch.nan
    export_folder(full, None, tmp_path / "folder")
    weights = open_weights(tmp_path / "folder", piecewise=True)
    with pytest.raises(LuminaError, match=r"layers\.1\.self_attn\.o_proj") as caught:
        filled_network(weights, torch.device("cpu"), torch.float32, found_codec("nf4"))
    assert caught.value.code == "E303"


@pytest.mark.thorough
def test_loading_takes_the_result_and_the_largest_tensor(tmp_path: Path) -> None:
    """Peak of anonymous memory: 110 MB of float32 matrices go into 4 bits."""
    full = tiny(
        20_000, num_layers=8, hidden_size=512, intermediate_size=1536, num_heads=8
    )
    export_folder(full, None, tmp_path / "folder", dtype="bfloat16")
    wide = sum(p.numel() * 4 for p in full.backbone.blocks.parameters())
    largest = max(p.numel() * 4 for p in full.parameters())
    command = [sys.executable, "-c", PEAK, str(tmp_path / "folder")]
    found = json.loads(subprocess.check_output(command, text=True))
    slack = 48 * 2**20  # what the allocator keeps
    assert found["peak"] < found["held"] + largest + slack, found
    assert slack < wide  # so that all matrices at once would not pass
