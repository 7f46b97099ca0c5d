"""The generated references and the names in the pages are those that Lumina has."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml

from lumina.cli.main import COMMANDS
from lumina.config import Config
from lumina.config.presets import PRESETS
from lumina.config.sections import LEAVES
from lumina.config.spellings import SYNONYMS
from lumina.features import FEATURES
from lumina.train.controls.table import known_controls

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "tools"))

import references  # noqa: E402


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return references.pages()


def first_cells(text: str) -> set[str]:
    """Names of the first column."""
    return {
        name
        for line in text.splitlines() if line.startswith("| `")
        for name in re.findall(r"`([^`]+)`", line.split(" | ")[0])
    }  # fmt: skip


@pytest.mark.covers("DOC-01: feature index", "DOC-01: CLI reference")
def test_every_command_option_preset_feature_and_control_is_there(made):
    flags = {"--" + leaf.replace("_", "-") for leaf in LEAVES}
    assert flags <= first_cells(made["options"])
    assert set(PRESETS) <= {name.rstrip("*") for name in first_cells(made["presets"])}
    assert set(FEATURES) == first_cells(made["features"])
    assert set(known_controls()) == first_cells(made["controls"])
    for name in COMMANDS:
        assert f"lumina {name}" in made["commands"]
    for name, text in made.items():
        rows = [line for line in text.splitlines() if line.startswith("|")]
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert rows and len(columns) <= 2, name


def test_nothing_in_a_cell_ends_it():
    text = references.table(("a", "b"), [("x|y", "<script>\nz")])
    assert text.splitlines()[2] == "| x\\|y | &lt;script&gt; z |"


def test_options_that_pages_name_exist():
    """Of `lumina train`, in the pages that say what another trainer's name is here."""
    known = {leaf.replace("_", "-") for leaf in (*LEAVES, *SYNONYMS, "preset")}
    others = {"dry-run", "json", "config-file", "deepspeed"}
    for page in ("coming-from", "missing", "hardware", "fine-tune", "pretrain"):
        lines = (DOCS / f"{page}.md").read_text().splitlines()
        # A row's first cell has the other trainer's names.
        texts = [
            line.split(" | ", 1)[-1] if line[:1] == "|" else line for line in lines
        ]
        named = set(re.findall(r"(?<![\w-])--([a-z][a-z0-9-]+)", "\n".join(texts)))
        ours = {name.removeprefix("no-") for name in named} - others
        unknown = ours - known - OF_OTHER_COMMANDS
        assert not unknown, (page, unknown)


OF_OTHER_COMMANDS = {
    "hardware-profile", "show", "detailed", "output", "message", "prompt", "data",
    "local-dir", "nnodes", "nproc-per-node", "rdzv-backend", "rdzv-endpoint",
    "tiers", "capabilities", "inference-precision",
}  # fmt: skip


def test_every_page_is_in_the_navigation_once():
    text = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"- ([\w/-]+\.md)$", text, re.M)
    assert len(listed) == len(set(listed))
    own = {path.name for path in DOCS.glob("*.md")}
    made = {f"reference/{name}.md" for name in references.pages()}
    assert made <= set(listed) <= own | made  # tools/docs_hook.py adds the others


NO_RUN = {
    "LOG": "what did not help",
    "adaptive-benchmark": "`lumina bench adaptive` makes its own scenarios",
    "architecture": "how Lumina is built",
    "benchmarks": "measures; takes the options of any run",
    "claims": "what was measured",
    "codes": "what errors mean",
    "code-evaluation": "asks models that are trained",
    "coming-from": "names of other trainers",
    "configuration": "has its own on the page",
    "decoding": "a model answers",
    "diagnosis": "plans and profiles; takes any of the files",
    "evaluation": "asks models that are trained",
    "extending": "examples/gated_linear_attention.py",
    "formats": "folders of other tools",
    "hardware": "which machine for what",
    "index": "where to read what",
    "literature": "papers",
    "matrix": "`lumina matrix` has settings of its own",
    "missing": "what is not there",
    "practice": "advice",
    "python": "Python has Config in place of a file",
    "reliability": "what happens when something fails",
    "report": "what every run leaves",
    "run-folder": "what every run leaves",
    "runs": "examples/first-run.yaml, and a sweep's file on the page",
    "serving": "options of `lumina serve`: the recipe inference_deployment",
    "text-safety": "measures the samples of any run; takes any of the files",
}
"""Pages without a configuration of a training, and why."""


def test_every_page_about_training_has_an_example():
    pages = {path.stem for path in DOCS.glob("*.md")}
    examples = {path.stem for path in (ROOT / "examples").glob("*.yaml")}
    assert pages - {*NO_RUN} == examples


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=str)
def test_a_config_of_the_examples_is_one(path: Path):
    page = f"docs/{path.stem}.md"
    assert page in path.read_text() and path.name in (ROOT / page).read_text()
    values = yaml.safe_load(path.read_text())
    config = Config.resolve(file=path)
    for name in values:
        assert name == "preset" or config.get(name) is not None
