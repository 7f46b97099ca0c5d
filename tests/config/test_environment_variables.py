"""The table of environment variables and what the source reads are one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import lumina
from lumina.cache_root import cache_root
from lumina.cli.main import main
from lumina.config.environment_variables import VARIABLES

SOURCE = Path(lumina.__file__).parent


def read_in_source() -> dict[str, set[str]]:
    """Constant beside `environ` -> the files that read it."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        if "environ" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            name = None
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
                name = node.slice if "environ" in ast.unparse(node.value) else None
            elif isinstance(node, ast.Call) and "environ." in ast.unparse(node.func):
                name = node.args[0] if node.args else None
            elif isinstance(node, ast.Compare) and "environ" in ast.unparse(node):
                name = node.left
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                place = str(path.relative_to(SOURCE))
                found.setdefault(name.value, set()).add(place)
    return found


def test_every_variable_that_is_read_is_in_the_table() -> None:
    listed = {variable.name for variable in VARIABLES}
    read = read_in_source()
    assert {"LUMINA_CACHE", "CC", "WORLD_SIZE"} <= read.keys()
    assert read.keys() <= listed, sorted(read.keys() - listed)
    for name, places in read.items():
        if name.startswith("LUMINA_"):
            inside = {place for place in places if "bench" not in place}
            assert len(inside) == 1, (name, inside)


def test_what_the_table_calls_luminas_own_is_in_the_source() -> None:
    text = "".join(
        path.read_text()
        for path in SOURCE.rglob("*.py")
        if path.name != "environment_variables.py"
    )
    for variable in VARIABLES:
        if variable.reader == "lumina" and not variable.name.endswith("_PROXY"):
            assert f'"{variable.name}"' in text, variable.name


@pytest.mark.covers("CFG-16")
def test_values_are_shown_and_secrets_are_not(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "kept"))
    monkeypatch.setenv("HF_TOKEN", "hf_precious")
    assert main(["config", "environment"]) == 0
    shown = capsys.readouterr().out
    assert str(tmp_path / "kept") in shown and cache_root() == tmp_path / "kept"
    assert main(["config", "environment", "--json"]) == 0
    shown += capsys.readouterr().out
    assert "hf_precious" not in shown and "not shown" in shown
    found = {one["name"]: one for one in json.loads(shown[shown.index("[\n") :])}
    assert found["LUMINA_CACHE"]["value"] == str(tmp_path / "kept")
