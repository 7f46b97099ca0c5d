"""The table of the design's items: complete, of options that exist, of real figures."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lumina.cli.command_words import all_commands

ROOT = Path(__file__).parents[2]


def _tool() -> ModuleType:
    place = ROOT / "tools/design_items.py"
    spec = importlib.util.spec_from_file_location("design_items", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["design_items"] = module  # where its dataclass looks for its names
    spec.loader.exec_module(module)
    return module


TOOL = _tool()


def test_the_page_has_the_table_of_all_44_items() -> None:
    found = TOOL.items()
    assert [one.number for one in found] == list(range(1, 45))
    assert len({one.name for one in found}) == 44
    page = TOOL.PAGE.read_text()
    assert f"{TOOL.BEGIN}\n{TOOL.table(found)}\n{TOOL.END}" in page, "--write it anew"


def test_every_item_has_an_option_that_exists_or_a_reason() -> None:
    commands = {command.words: command for command in all_commands()}
    for one in TOOL.items():
        assert one.options or one.reason, one
        for option in one.options:
            words = option.split()
            if (option,) in commands:
                continue
            name, flag, *value = words if len(words) > 1 else ("train", option)
            flag = flag if flag.startswith("--") else f"--{flag.replace('_', '-')}"
            command = commands[(name,)]
            assert flag in command.options, one
            assert set(value) <= set(command.choices.get(flag, value)), one


def test_figures_are_read_from_results_and_claims() -> None:
    eight_bits = next(one for one in TOOL.items() if one.number == 2)
    raw = json.loads((TOOL.RESULTS / "optimizer_speed-h200.json").read_text())
    peaks = {one["variant"]: one["peak_gib"] for one in raw["variants"]}
    said = re.findall(r"[\d.]+", eight_bits.saved)
    assert said[1:3] == [f"{peaks[n]:.3g}" for n in ("adamw", "adamw_8bit")]
    where = "memory_parts-h200.json:offload.results[states=host,in_backward=true].peak"
    assert TOOL.shown(where, "bytes") == f"{6404991488 / 2**30:.3g}"


WRONG = {
    "no such file": "figures = [{of = 'none.json:a', as = 'GiB'}]\nsaved = '{0}'",
    "no such number": "figures = [{of = 'memory-h200.json:cases[case=9].x', as = 's'}]"
    "\nsaved = '{0}'",
    "no number": "figures = [{of = 'memory-h200.json:device', as = 's'}]"
    "\nsaved = '{0}'",
    "no such claim": "claim = 'this is nowhere'\nsaved = 'much'",
    "no source": "saved = 'a half'",
    "nothing": "options = ['attention']",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_was_not_measured_is_refused(what: str) -> None:
    with pytest.raises(ValueError, match=r"item 1|is not there|is no number"):
        TOOL.items(f"[[item]]\nnumber = 1\nname = 'x'\n{WRONG[what]}\n")
