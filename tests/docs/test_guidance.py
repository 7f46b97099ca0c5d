"""What pages say of machines, packages, codes and papers is true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.data.documents import read_documents
from lumina.errors import CODES, LuminaError
from lumina.observe.trackers import chosen_tracker, declared
from lumina.optim.declared import chosen_optimizer
from lumina.plan.costs.layout import Layout
from lumina.plan.doctor import OPTIONAL
from lumina.plan.memory import estimate
from lumina.plan.shape import resolve_spec

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools"))


def words(page: str) -> str:
    return " ".join((DOCS / f"{page}.md").read_text().split())


def bytes_a_parameter(optimizer: str) -> float:
    """Of what training holds besides activations, by the planner."""
    states = chosen_optimizer(optimizer).bytes_per_parameter
    layout = Layout(1, compute_dtype="bfloat16", optimizer_states=(states, 0.0))
    memory = estimate(resolve_spec(Config(preset="dense_125m")), layout)
    parts = ("weights", "master_weights", "gradients", "optimizer")
    return sum(memory[part] for part in parts) / (memory["weights"] / 2)


@pytest.mark.covers("DOC-09: hardware guidance")
def test_the_guidance_on_memory_is_the_planners() -> None:
    plain, small = bytes_a_parameter("adamw"), bytes_a_parameter("adamw_8bit")
    assert plain == pytest.approx(16, rel=0.02)
    assert plain - small == pytest.approx(6, rel=0.05)
    text = words("hardware")
    assert "about 16 bytes a parameter" in text
    assert "`--optimizer adamw_8bit`: 6 bytes a parameter less" in text


@pytest.mark.covers("DOC-09: storage guidance")
def test_the_guidance_on_storage_is_that_of_the_requirements() -> None:
    """tests/test_project.py compares the README with a checkpoint."""
    readme = " ".join((ROOT / "README.md").read_text().split())
    stated = re.search(r"per checkpoint (\d+) to (\d+) bytes a parameter", readme)
    assert stated is not None
    assert f"takes {stated[1]} to {stated[2]} bytes a parameter" in words("hardware")
    limit = Config(preset="debug").run.save_total_limit
    assert f"`--save-total-limit` ({limit}) checkpoints" in words("hardware")


@pytest.mark.covers("DOC-10")
def test_the_literature_lists_fifteen_works() -> None:
    lines = (DOCS / "literature.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows) == 15 and all(row[1].strip(" |") for row in rows)
    for work, _ in rows:
        assert re.search(r"20\d\d, \*.+\*, (arXiv:\d{4}\.\d{5}|[A-Z]+ 20\d\d)", work)
    named = ["ZeRO", "GQA", "Llama 2", "Mistral 7B", "Sublinear Memory", "QLoRA",
             "PowerSGD", "PagedAttention", "Triton", "Ring Attention",
             "FlashAttention-2", "Curriculum", "Super-Convergence", "LoRA+",
             "Compute-Optimal"]  # fmt: skip
    for name, (work, _) in zip(named, rows, strict=True):
        assert name in work


@pytest.mark.covers("DOC-11")
def test_what_happens_without_an_optional_package_is_as_stated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from references import packages

    page = packages.page()
    for name in OPTIONAL:
        assert f"| `{name}` |" in page
    assert "refuses with" in page and "E003" in page
    monkeypatch.setitem(sys.modules, "zstandard", None)
    data = tmp_path / "text.txt.zst"
    data.write_bytes(bytes.fromhex("28b52ffd0401290000") + b"hello")
    with pytest.raises(LuminaError) as refused:
        list(read_documents([str(data)]))
    assert refused.value.code == "E003" and "zstandard" in refused.value.message
    assert "pip install" in refused.value.hint
    tracker = chosen_tracker("tensorboard")
    monkeypatch.setattr(declared, "installed", lambda name: False)
    with pytest.raises(LuminaError) as refused:
        tracker.require()
    assert "pip install tensorboard" in refused.value.hint


@pytest.mark.covers("DOC-01: troubleshooting")
def test_the_page_of_codes_has_every_code_with_what_to_do() -> None:
    text = (DOCS / "codes.md").read_text()
    for code in CODES:
        part = text.partition(f"### {code}:")[2].partition("\n### ")[0]
        assert "What to do:" in part and "\n- " in part, code
