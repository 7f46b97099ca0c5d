"""The project as a whole: what loads when, what is pinned, what the pages promise."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import lumina
from programs import tiny_plan

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, str]:
    """Package -> version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[\w.]+", line) for line in kept)
    return {normal(name): v for name, v in (line.split("==") for line in kept)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    return set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))


@pytest.mark.parametrize(
    "module",
    [
        "lumina",
        "lumina.errors",
        "lumina.config",
        "lumina.plan.plan",
        "lumina.model.spec",
        "lumina.cli.main",
    ],
)
def test_nothing_before_the_work_imports_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, f"{module} imports torch\n{done.stderr}"


def test_the_public_names_load_on_first_use() -> None:
    code = (
        "import sys, lumina\n"
        "assert 'lumina.config' not in sys.modules\n"
        "lumina.ConfigPresets.debug()\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'Trainre'"):
        _ = lumina.Trainre


def test_every_dependency_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    named = [*PROJECT["project"]["dependencies"], *extras["test"], *extras["lint"]]
    wanted = {normal(re.split(r"[<>=\[ ]", one)[0]) for one in named}
    assert not wanted - set(pins())
    assert pins()["torch"] == "2.13.0"


@pytest.mark.skipif(
    Path(sys.prefix).resolve() != (ROOT / ".venv").resolve(),
    reason="not the environment of make setup",
)
def test_what_runs_here_is_what_is_pinned() -> None:
    """And all of it is there: no test is skipped for want of a package."""
    from importlib.metadata import version

    extras = PROJECT["project"]["optional-dependencies"]
    named = [*PROJECT["project"]["dependencies"], *extras["test"], *extras["lint"]]
    for one in named:
        name = normal(re.split(r"[<>=\[ ]", one)[0])
        assert version(name).split("+")[0] == pins()[name]


@pytest.mark.covers("DOC-06")
def test_requirements_are_stated_as_the_package_states_them() -> None:
    readme = (ROOT / "README.md").read_text()
    python = PROJECT["project"]["requires-python"].removeprefix(">=")
    torch = next(d for d in PROJECT["project"]["dependencies"] if d.startswith("torch"))
    section = readme.split("## Requirements")[1].split("\n## ")[0]
    assert f"Python ≥ {python}" in section
    assert f"PyTorch ≥ {torch.removeprefix('torch>=')}" in section
    assert pins()["torch"] in section
    assert all(word in section for word in ("Disk", "Memory", "GPU", "Optional"))
    words = " ".join(section.split())
    assert "about 2 GB for the CPU set-up, 6 GB or more for a CUDA one" in words
    least, most = (bytes_a_parameter(ema_decay=decay) for decay in (0.0, 0.9))
    assert f"per checkpoint {least} to {most} bytes a parameter" in words


def bytes_a_parameter(**options: float) -> int:
    """Of what a checkpoint holds: weights, moments and, if asked for, their average."""
    from lumina.assemble.assemble import Progress, assemble, capture

    program = assemble(tiny_plan(**options))
    state = capture(program, Progress())
    held = [state.tensors, *state.optimizer.values()]
    size = sum(t.numel() * t.element_size() for part in held for t in part.values())
    parameters = sum(p.numel() for p in program.network.parameters())
    assert size % parameters == 0
    return size // parameters


@pytest.mark.covers("DOC-07")
def test_licence_citation_guide_and_changes_fit_the_package() -> None:
    version = PROJECT["project"]["version"]
    assert lumina.__version__ == version
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "Version 2.0" in licence
    assert PROJECT["project"]["license"] == "Apache-2.0"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (version, "Apache-2.0")
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    promised = set(re.findall(r"make ([a-z-]+)", guide))
    assert promised and promised <= make_targets()


def test_pages_link_only_to_files_that_exist() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            # Pages of docs/reference are made, and their links checked, by `make docs`.
            if "://" not in target and not target.startswith("reference/"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_without_a_target_lists_the_targets() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0
    for target in make_targets() - {"help"}:
        assert f"make {target}" in done.stdout, target


def test_an_old_python_is_refused_with_advice(tmp_path: Path) -> None:
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(ROOT), "setup", f"PYTHON={old}", f"VENV={tmp_path / 'v'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "v").exists()


def test_benchmarks_and_tools_import_only_what_there_is() -> None:
    """Nothing else runs most of them, so a name that moves would be missed."""
    missing = []
    files = [*ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("tools/*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            if node.module.partition(".")[0] != "lumina":
                continue
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if str(error.name).startswith("lumina"):
                    missing.append(f"{file.name}: {node.module}")
                continue  # a package of a GPU
            for name in node.names:
                if not hasattr(module, name.name):
                    inner = f"{node.module}.{name.name}"
                    if importlib.util.find_spec(inner) is None:
                        missing.append(f"{file.name}: {inner}")
    assert len(files) > 15 and not missing, missing
