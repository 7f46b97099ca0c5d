"""The schema of configuration files agrees with the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.cli.main import main
from lumina.config import Config, ConfigPresets
from lumina.config.files import read_mapping
from lumina.config.schema import schema
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import SWITCHES, SYNONYMS
from lumina.errors import LuminaError
from option_values import values_of


@pytest.fixture(scope="module")
def accepts() -> Any:
    """Whether an editor with the schema takes a mapping."""
    import fastjsonschema  # a test dependency that only the thorough tests need

    validate = fastjsonschema.compile(schema())

    def accepted(values: dict[str, Any]) -> bool:
        try:
            validate(json.loads(json.dumps(values)))
        except fastjsonschema.JsonSchemaException:
            return False
        return True

    return accepted


def loads(values: dict[str, Any], folder: Path) -> bool:
    """Whether the loader takes it, as far as keys and single values go."""
    file = folder / "values.yaml"
    file.write_text(json.dumps(values))
    try:
        Config.load(file)
    except LuminaError as error:
        return error.code not in ("E004", "E005")
    return True


@pytest.mark.thorough
def test_every_saved_file_is_accepted(accepts, tmp_path: Path) -> None:
    for name in ("debug", "b7", "l2:b7"):
        ConfigPresets.get(name).save(tmp_path / "config.yaml")
        assert accepts(read_mapping(tmp_path / "config.yaml"))


@pytest.mark.thorough
def test_every_spelling_is_a_key_where_the_loader_takes_it(
    accepts, tmp_path: Path
) -> None:
    for name in (*LEAVES, *SYNONYMS):
        leaf = SYNONYMS.get(name, name)
        if leaf == "preset":
            value: Any = "debug"
        elif name in SWITCHES or name in ("bf16", "fp16"):
            value = True
        else:
            value = Config().get(leaf)
            value = list(value) if isinstance(value, tuple) else value
        hyphened = name.replace("_", "-")
        assert accepts({name: value}) and accepts({hyphened: value}), name
        assert accepts({"training_params": {hyphened: value}}) or leaf == "preset"
        if leaf != "preset":
            home = LEAVES[leaf]
            other = next(one for one in SECTIONS if one != home)
            assert accepts({home: {name: value}}), name
            assert not accepts({other: {name: value}}), name


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"lerning_rate": 1e-4}, False),
        ({"train": {"lerning_rate": 1e-4}}, False),
        ({"max_new_tokenz": 5}, False),
        ({"learning_rate": "1e-4"}, True),
        ({"learning_rate": "fast"}, False),
        ({"learning_rate": -1.0}, False),
        ({"steps": None}, True),
        ({"steps": "auto"}, True),
        ({"steps": 2.5}, False),
        ({"steps": True}, False),
        ({"max_steps": -1}, True),
        ({"lr_scheduler_type": "constant_with_warmup"}, True),
        ({"use_flash_attention": False}, True),
        ({"use_moe": "No"}, True),
        ({"use_moe": 1}, False),
        ({"train_data": "one.txt"}, True),
        ({"train_data": [1]}, False),
        ({"train": None}, True),
        ({"train": 5}, False),
        ({"phases": [{"name": "a", "steps": 3}]}, True),
        ({"config_version": 99}, False),
    ],
)
def test_single_values_are_judged_as_by_the_loader(
    values: dict[str, Any], good: bool, accepts, tmp_path: Path
) -> None:
    assert accepts(values) is good
    if "config_version" not in values:
        assert loads(values, tmp_path) is good


@pytest.mark.thorough
@given(st.data())
@settings(max_examples=300, deadline=None)
def test_what_the_loader_takes_is_accepted(
    accepts, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    leaf = data.draw(st.sampled_from(sorted(LEAVES)))
    odd = st.sampled_from(["1e3", "0.5", "yes", "off", None, "auto", 3, 0.25, True, []])
    values = {leaf: data.draw(values_of(leaf) | odd)}
    try:
        text = json.dumps(values)
        text.encode()
    except (ValueError, UnicodeEncodeError):
        return
    if loads(values, tmp_path_factory.mktemp("values")):
        assert accepts(values), values


def test_every_option_is_explained(capsys) -> None:
    assert main(["config", "schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    for leaf in LEAVES:
        assert len(found["definitions"][leaf]["description"]) > 5
    assert found == schema()
    # Unknown keys are refused: at the top, in a section, and in a dictionary.
    section, group = found["properties"]["train"], found["definitions"]["any option"]
    for place in (found, section, group):
        assert place["additionalProperties"] is False and "lr" in place["properties"]
        assert any("learning[-_]rate" in one for one in place["patternProperties"])
    assert "hidden_size" not in section["properties"]
    rate = found["definitions"]["learning_rate"]
    assert {"type": "number", "exclusiveMinimum": 0} in [
        {key: one[key] for key in ("type", "exclusiveMinimum") if key in one}
        for one in rate["anyOf"]
    ]
