"""What stands beside a base in few bits: the same base, with the values of these."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.ops.low_bits.codec import found_codec
from lumina.state.weights import open_weights
from lumina.train.matrix.bases import bases_in, through_few_bits
from lumina.train.matrix.cell import Cell
from lumina.train.matrix.run import RESULTS


class _NoTokenizer:
    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)


def test_matrices_of_the_copy_have_the_values_of_their_few_bits(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {0: tiny()}, _NoTokenizer())
    (run / "plan.json").write_text("{}")
    copy = through_few_bits(run, "nf4_double", tmp_path / "copy")
    before, after = (open_weights(one).source for one in (run, copy))
    codec = found_codec("nf4_double")
    for name in before.names():
        full, there = before.tensor(name), after.tensor(name)
        matrix = name.startswith("backbone.blocks") and full.ndim == 2
        expected = codec.pack(full).unpacked() if matrix else full
        assert torch.equal(there, expected), name
        assert torch.equal(there, full) is not matrix, name
    assert (copy / "plan.json").read_text() == "{}"
    # It is made once, and what was broken off before is no copy.
    assert through_few_bits(tmp_path / "gone", "nf4_double", copy) == copy
    assert not (tmp_path / "copy.partial").exists()


def test_the_reference_of_a_base_in_few_bits_begins_with_their_values() -> None:
    for names in (("base_storage",), ("adapters", "base_storage", "bf16")):
        cell = Cell(names)
        assert bases_in(cell.leaves) == {"base": ""}
        assert bases_in(cell.reference) == {"base in nf4_double": "nf4_double"}
        assert "load_in_4bit" not in cell.reference
    assert bases_in(Cell(("adapters",)).reference) == {"base": ""}
    assert bases_in(Cell(("qk_norm",)).reference) == {}
    # Another start than the base is nobody's to replace.
    asked = Cell(("base_storage",), {"init_from": "{folder}"})
    assert asked.reference["init_from"] == "{folder}"


@pytest.mark.thorough
@pytest.mark.parametrize(
    "pair",
    [
        # Beside the base as it was its gradients are 0.71 off: it thinks in rounds.
        ("base_storage", "hierarchical_reasoning"),
        # What shows it are matrices that few bits hold, and no parameters.
        ("latent_attention", "base_storage"),
    ],
)
def test_what_stands_on_few_bits_learns_as_on_their_values(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    words = ["matrix", "--folder", str(tmp_path), "--device", "cpu", "--pairs"]
    assert main([*words, "--only", *pair]) == 0
    (row,) = map(json.loads, (tmp_path / RESULTS).read_text().splitlines())
    assert (row["status"], row["features"]) == ("verified", list(pair)), row["why"]
    assert row["figures"]["gradient_error"] < 1e-4


def test_a_reference_has_as_many_rows_in_a_forward_as_a_rank() -> None:
    """Where an expert has room for some of the tokens of a forward, and no more."""
    assert Cell(("moe_capacity", "ddp")).reference["batch_size"] == 2
    for names in (("moe_capacity",), ("ddp",), ("mixture_of_experts", "ddp")):
        assert Cell(names).reference["batch_size"] == 4, names
    apart = Cell(("moe_capacity", "independent"))  # compared with as many ranks
    assert apart.reference_ranks == 2
    assert apart.reference["batch_size"] == apart.leaves["batch_size"]
