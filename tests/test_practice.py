"""The house keeps its own rules: each of them refuses what breaks it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from import_path import finding

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "lumina"
BIN = Path(sys.executable).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*words: object, at: Path = ROOT, **environment: str) -> tuple[int, str]:
    """The exit code of a command, and all that it says."""
    if isinstance(words[0], Path) and not words[0].exists():
        pytest.skip(f"needs {words[0].name} beside this Python")
    done = subprocess.run(
        [str(word) for word in words],
        cwd=at,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


GOOD = '"""What it is."""\n\nimport os\nimport sys\n\nprint(os, sys)\n'
BROKEN = {
    "imports out of order": (GOOD.replace("os\nimport sys", "sys\nimport os"), "I001"),
    "a name that is not used": (GOOD.replace("(os, sys)", "(os)"), "F401"),
    "a long comment": (GOOD + "# " + "x" * 87 + "\n", "E501"),
    "no docstring": (GOOD + "\n\ndef f():\n    return 1\n", "D103"),
}


@pytest.mark.covers("DOC-03: style: black 88, isort, flake8")
@pytest.mark.parametrize("case", BROKEN)
def test_the_style_is_checked(case: str, tmp_path: Path) -> None:
    lint = (BIN / "ruff", "check", "--config", ROOT / "pyproject.toml", "--no-cache")
    text, code = BROKEN[case]
    (tmp_path / "one.py").write_text(GOOD)
    assert run(*lint, tmp_path)[0] == 0
    (tmp_path / "one.py").write_text(text)
    failed, said = run(*lint, tmp_path)
    assert failed and code in said


@pytest.mark.covers("DOC-03: style: black 88, isort, flake8")
def test_lines_are_laid_out_as_black_does_in_88_columns(tmp_path: Path) -> None:
    form = (BIN / "ruff", "format", "--config", ROOT / "pyproject.toml", "--no-cache")
    names = ", ".join(f"argument_{n:02}" for n in range(6))
    fits = f"name = cal({names})\n"
    assert len(fits) == 89  # and the end of the line
    cases = {
        "name = 'single'\n": 'name = "single"\n',
        fits: fits,
        f"names = cal({names})\n": f"names = cal(\n    {names}\n)\n",
    }
    for text, wanted in cases.items():
        (tmp_path / "one.py").write_text(text)
        assert run(*form, tmp_path)[0] == 0
        assert (tmp_path / "one.py").read_text() == wanted


@pytest.mark.thorough
@pytest.mark.covers("DOC-03: mypy, complete type hints")
def test_a_function_without_types_is_refused(tmp_path: Path) -> None:
    check = (BIN / "mypy", "--config-file", ROOT / "pyproject.toml", "--no-incremental")
    file = tmp_path / "one.py"
    file.write_text("def f(x: int) -> int:\n    return x\n")
    assert run(*check, file)[0] == 0
    for text, code in (
        ("def f(x):\n    return x\n", "no-untyped-def"),
        ("def f(x: int) -> str:\n    return x\n", "return-value"),
        ("def f(x: list) -> None:\n    pass\n", "type-arg"),
    ):
        file.write_text(text)
        failed, said = run(*check, file)
        assert failed and code in said


def sections(text: str, name: str) -> list[str]:
    """What a section of a docstring in Google's form has entries for."""
    if f"{name}:" not in text:
        return []
    found = re.search(rf"^( *){name}:\n((?:\1 +.*\n|\n)+)", text + "\n", re.M)
    if found is None:
        return []
    deep = len(found[1]) + 4
    entry = re.compile(
        rf"^ {{{deep}}}(\*{{0,2}}\w+(?:, \*{{0,2}}\w+)*)(?: \(.*?\))?:", re.M
    )
    return [
        name.strip(" *") for one in entry.findall(found[2]) for name in one.split(",")
    ]


def wrong_docstrings(tree: ast.AST) -> list[str]:
    """Functions whose docstring names arguments that they have not."""
    wrong = []
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    for node in (one for one in ast.walk(tree) if isinstance(one, kinds)):
        text = ast.get_docstring(node) or ""
        if re.search(r"^\s*(:param|Parameters\n\s*-{3})", text, re.M):
            wrong.append(f"{node.name}: not Google's form")
        function = node
        if isinstance(node, ast.ClassDef):
            made = [one for one in node.body if getattr(one, "name", "") == "__init__"]
            if not made:
                continue
            function = made[0]
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        spec = function.args
        known = {a.arg for a in (*spec.posonlyargs, *spec.args, *spec.kwonlyargs)}
        known |= {a.arg for a in (spec.vararg, spec.kwarg) if a is not None}
        named = set(sections(text, "Args"))
        wrong += [f"{node.name}: {name}" for name in sorted(named - known)]
    return wrong


@pytest.mark.thorough
@pytest.mark.covers("DOC-03: Google docstrings")
def test_docstrings_name_the_arguments_that_there_are() -> None:
    bad = 'def f(a):\n    """Do.\n\n    Args:\n        b: it.\n    """\n'
    assert wrong_docstrings(ast.parse(bad)) == ["f: b"]
    assert wrong_docstrings(ast.parse(bad.replace("b: it", "a: it"))) == []
    numpy = 'def f(a):\n    """Do.\n\n    Parameters\n    ----\n    """\n'
    assert wrong_docstrings(ast.parse(numpy))
    seen, wrong = 0, []
    for path in SRC.rglob("*.py"):
        text = path.read_text()
        seen += text.count("\n    Args:\n")
        wrong += [f"{path.name}: {w}" for w in wrong_docstrings(ast.parse(text))]
    assert seen > 500
    assert not wrong


@pytest.mark.covers("DOC-03: pre-commit")
def test_a_commit_is_refused_while_a_staged_file_is_not_in_form(tmp_path: Path) -> None:
    if not (BIN / "ruff").exists():
        pytest.skip("needs ruff beside this Python")
    here = tmp_path / "project"
    here.mkdir()
    for name in (".githooks", "pyproject.toml", "Makefile"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, here / name)
    (here / ".venv").mkdir()
    (here / ".venv" / "bin").symlink_to(BIN)
    (here / ".gitignore").write_text(".venv\n")
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    run("git", "init", "-q", at=here)
    assert run("make", "-o", "setup", "hooks", at=here)[0] == 0
    (here / "one.py").write_text(GOOD)
    run("git", "add", ".", at=here)
    committed, said = run(*git, "commit", "-qm", "good", at=here)
    assert committed == 0, said
    for text, word in ((BROKEN["a name that is not used"][0], "F401"), (
        GOOD.replace("(os, sys)", "(os,sys)"), "reformat"
    )):  # fmt: skip
        (here / "one.py").write_text(text)
        run("git", "add", ".", at=here)
        refused, said = run(*git, "commit", "-qm", "bad", at=here)
        assert refused and word in said
    assert run("git", "log", "--oneline", at=here)[1].count("\n") == 1


@pytest.mark.covers("DOC-03: CI")
@pytest.mark.parametrize("broken", [None, "lint", "test", "test-more", "docs"])
def test_what_a_change_must_pass_ends_at_the_first_failure(
    broken: str | None, tmp_path: Path
) -> None:
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$1"\n[ "$1" != "{broken}" ]\n')
    make.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    failed, said = run(ROOT / ".ci" / "run", at=tmp_path, PATH=path)
    steps = ["lint", "test", "test-more", "docs"]
    assert said.split() == steps[: steps.index(broken) + 1 if broken else None]
    assert bool(failed) == (broken is not None)


ROOMS = {"core": ("model", "ops"), "training": ("train",), "monitoring": ("observe",)}


@pytest.mark.covers("DOC-04: package layout: core, training, monitoring, utils, tests")
@pytest.mark.covers("DOC-02: pytest unit")
def test_every_room_has_its_floor_its_tests_and_its_place_in_the_page() -> None:
    (layers,) = (
        contract["layers"]
        for contract in PROJECT["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    floors = [re.findall(r"\w+", floor) for floor in layers]
    rooms = {path.parent.name for path in SRC.glob("*/__init__.py")}
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert {name for names in ROOMS.values() for name in names} <= rooms
    for room in rooms:
        assert any(room in floor for floor in floors), room
        assert re.search(rf"\b{room}\b", page), room
        assert list((ROOT / "tests" / room).rglob("test_*.py")), room
    # What all of them use is files of one purpose each, which import no room.
    used = next(floor for floor in floors if "quantities" in floor)
    for name in used:
        text = (SRC / f"{name}.py").read_text()
        assert not re.search(rf"from lumina\.({'|'.join(rooms)})\b", text), name


@pytest.mark.covers(
    "DOC-04: pyproject, extras (monitoring, development)", "DOC-04: flash"
)
def test_the_extras_bring_what_their_names_say() -> None:
    extras = PROJECT["project"]["optional-dependencies"]

    def brought(name: str) -> set[str]:
        inner = re.compile(r"luminaai\[(.*)\]")
        found: set[str] = set()
        for entry in extras[name]:
            more = inner.fullmatch(entry)
            names = more[1].split(",") if more else []
            found |= {x for each in names for x in brought(each)} if more else {entry}
        return {re.split(r"[<>=;]", entry)[0] for entry in found}

    # What flash3 says that it lacks.
    (flash,) = brought("flash")
    assert f"the package {flash} (" in (SRC / "ops/attention/flash3.py").read_text()
    trackers = {path.stem for path in (SRC / "observe/trackers").glob("*.py")}
    assert {"tensorboard", "wandb", "mlflow", "trackio"} <= brought("monitoring")
    assert "nvidia-ml-py" in brought("monitoring") and trackers
    tools = {"pytest", "hypothesis", "ruff", "mypy", "import-linter", "mkdocs"}
    assert tools <= brought("development")


@pytest.mark.thorough
@pytest.mark.covers("DOC-05: minimal coupling")
def test_an_import_that_points_up_is_refused(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "*.html", "*.js")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=ignored)
    check = (BIN / "lint-imports", "--no-logo", "--no-cache")
    place = finding(tmp_path / "src")
    assert run(*check, at=tmp_path, **place)[0] == 0
    with open(tmp_path / "src/lumina/data/order.py", "a") as file:
        file.write("\nfrom lumina.train import loop\n")
    failed, said = run(*check, at=tmp_path, **place)
    assert failed and "lumina.data.order -> lumina.train" in said


@pytest.mark.covers("DOC-08: reproducible benchmark scripts")
def test_the_script_and_the_files_of_every_claim_are_there() -> None:
    page = (ROOT / "docs" / "claims.md").read_text()
    named = set(re.findall(r"\b((?:benchmarks|tests)/[\w./-]+\.\w+)", page))
    assert len(named) > 60
    assert not [name for name in named if not (ROOT / name).is_file()]
    scripts = [
        name
        for name in named
        if name.startswith("benchmarks/") and name.endswith(".py")
    ]
    for name in scripts:
        compile((ROOT / name).read_text(), name, "exec")
