"""Folders that bitsandbytes itself writes, and its logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from lumina.infer.load import filled_network
from lumina.model.build import build_network
from lumina.model.stored import stored_pieces
from lumina.state.huggingface import export_folder
from lumina.state.weights import open_weights
from state.test_quantised_folders import SPEC, ids

pytestmark = pytest.mark.gpu

KINDS = {
    "nf4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"nf4"}),
    "nf4-double": (
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
        },
        {"nf4_double"},
    ),
    "fp4": ({"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, set()),
    "int8": ({"load_in_8bit": True}, {"int8"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_its_folders_are_read_with_its_logits(kind: str, tmp_path: Path) -> None:
    """Of int8, with those of its own dequantised model: it rounds activations, too."""
    pytest.importorskip("bitsandbytes")
    options, codecs = KINDS[kind]
    if "load_in_4bit" in options:
        options |= {"bnb_4bit_compute_dtype": torch.float32}
    plain = export_folder(build_network(SPEC, seed=0), None, tmp_path / "plain")
    asked = transformers.BitsAndBytesConfig(**options)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=asked, dtype=torch.float32, device_map="cuda"
    )
    theirs.save_pretrained(tmp_path / "few")
    weights = open_weights(tmp_path / "few")
    ours = filled_network(weights, torch.device("cuda"), torch.float32).eval()
    assert {one.codec for one in stored_pieces(ours).values()} == codecs
    if kind == "int8":
        theirs = theirs.dequantize(torch.float32)
    with torch.no_grad():
        expected = theirs(ids().cuda()).logits
        found = ours.logits(ids().cuda())
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
