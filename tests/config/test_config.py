"""Config: layers, provenance, immutability, spellings and conversions."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

import lumina
from lumina.config import Config, ConfigPresets, Source
from lumina.config.leaves import allowed, canonical
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import SYNONYMS
from lumina.errors import LuminaError


def test_flag_over_file_over_preset_over_default(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: b7\nlearning_rate: 3e-4\nseed: 7\n")
    config = Config.resolve(file=file, flags={"lr": "1e-3", "preset": "debug"})
    assert config.preset == "debug"
    assert config.get("learning_rate") == 1e-3
    assert config.train.seed == 7
    sources = {leaf: str(source) for leaf, source in config.provenance.items()}
    assert sources["learning_rate"] == f"flag, overrides file {file}: 0.0003"
    assert sources["seed"] == f"file {file}"
    assert sources["hidden_size"] == "preset debug"
    assert sources["beta1"] == "default"


def test_every_leaf_has_a_source_and_one_section() -> None:
    assert set(Config().provenance) == set(LEAVES)
    names = [leaf for section in SECTIONS.values() for leaf in section.model_fields]
    assert len(names) == len(set(names))
    assert not set(SYNONYMS) & set(LEAVES)
    assert set(SYNONYMS.values()) <= {*LEAVES, "preset"}


def test_replace_makes_another() -> None:
    config = lumina.ConfigPresets.debug()
    other = config.replace(train_data=["corpus/"], steps=200, seed=1)
    assert config.train.steps is None and other.train.steps == 200
    assert other.data.train_data == ("corpus/",)
    assert other.provenance["seed"] == Source("python")
    assert other != config and other.replace(seed=1) == other
    with pytest.raises(AttributeError, match="replace"):
        config.preset = "b7"
    with pytest.raises(LuminaError, match="E002"):
        config.replace(preset="b7")


@pytest.mark.covers("CFG-03: Config(...) constructor")
def test_constructor_and_dictionary_are_inverse() -> None:
    config = Config(preset="debug", train_data=["a", Path("b")], ema_decay=0.9)
    assert config.data.train_data == ("a", "b")
    assert Config(**config.to_dict()) == config
    assert hash(config) == hash(Config(**config.to_dict()))


def test_survives_pickle_and_copy() -> None:
    config = ConfigPresets.b7().replace(steps=3)
    for other in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert other == config and other.provenance == config.provenance


@pytest.mark.parametrize(
    ("spelling", "leaf"),
    [
        ("learning-rate", "learning_rate"),
        ("lr", "learning_rate"),
        ("num-experts-per-tok", "moe_top_k"),
        ("moe_capacity_factor", "capacity_factor"),
        ("gradient-accumulation-steps", "grad_accum"),
        ("dataset-file", "train_data"),
        ("train_data_path", "train_data"),
        ("eval-file", "eval_data"),
        ("max_seq_len", "seq_length"),
        ("model_size", "preset"),
        ("config", "preset"),
    ],
)
@pytest.mark.covers("CFG-14: synonyms mapped")
def test_spellings_map_to_one_key(spelling: str, leaf: str) -> None:
    assert canonical(spelling) == leaf


@pytest.mark.covers("CFG-15: unknown keys refused")
def test_unknown_key_names_the_nearest() -> None:
    with pytest.raises(LuminaError) as refused:
        Config(lerning_rate=1)
    assert refused.value.code == "E004"
    assert "'learning_rate'" in refused.value.hint


@pytest.mark.parametrize(
    ("leaf", "given", "kept"),
    [
        ("learning_rate", "1e-4", 1e-4),
        ("steps", "1e3", 1000),
        ("steps", "250", 250),
        ("batch_size", "auto", None),
        ("compile", "auto", None),
        ("use_moe", "yes", True),
        ("train_data", "one.txt", ("one.txt",)),
        ("gradient_checkpointing", True, "full"),
        ("gradient_checkpointing", False, "none"),
        ("lr_scheduler", "none", "constant"),
        ("run_dir", Path("x"), "x"),
        ("tokenizer", "auto", "auto"),
    ],
)
def test_values_as_people_write_them(leaf: str, given: object, kept: object) -> None:
    assert Config(**{leaf: given}).get(leaf) == kept


@pytest.mark.parametrize(
    ("leaf", "value"),
    [
        ("learning_rate", 0),
        ("learning_rate", 1.5),
        ("learning_rate", "nan"),
        ("weight_decay", -1),
        ("weight_decay", "inf"),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("steps", True),
        ("steps", "many"),
        ("hidden_size", None),
        ("precision", "int3"),
        ("use_moe", 2),
        ("train_data", 5),
        ("beta1", 1.0),
    ],
)
def test_nonsense_names_option_value_and_allowed(leaf: str, value: object) -> None:
    with pytest.raises(LuminaError) as refused:
        Config(**{leaf: value})
    assert refused.value.code == "E005"
    assert leaf in refused.value.message and repr(value) in refused.value.message
    assert allowed(leaf) in refused.value.hint


def test_allowed_values_in_words() -> None:
    assert allowed("learning_rate") == "a number > 0 and <= 1"
    assert allowed("batch_size") == "a whole number >= 1, or auto"
    assert allowed("device") == "one of auto, cpu, cuda, mps"
    assert allowed("use_moe") == "yes or no"


@pytest.mark.covers(
    "CFG-03: dictionaries training_params, data_params accepted",
    "CFG-03: quantization_params accepted",
)
def test_the_documents_dictionaries_hold_options(tmp_path: Path) -> None:
    given = Config(
        training_params={"lr": 1e-4, "num_epochs": 2},
        data_params={"dataset_file": "a.txt"},
        checkpoint_params={"save_total_limit": 5},
        quantization_params={
            "precision": "fp32",
            "quantization_method": "quanto",
            "quantization_bits": 8,
        },
        monitoring_params={"log_every_n_steps": 3},
    )
    assert given.train.learning_rate == 1e-4 and given.train.epochs == 2
    assert given.quantization.quantization_bits == "8"
    assert given.data.train_data == ("a.txt",) and given.system.precision == "fp32"
    assert given.run.save_total_limit == 5 and given.run.log_every_n_batches == 3
    file = tmp_path / "run.yaml"
    file.write_text("training_params:\n  lr: 0.0001\nsteps: 4\n")
    loaded = Config.load(file)
    assert loaded.train.learning_rate == 1e-4 and loaded.train.steps == 4
    for wrong, code in (
        ({"training_params": {"lerning_rate": 1}}, "E004"),
        ({"training_params": 3}, "E005"),
        ({"quantization_params": {"quantization_bits": 5}}, "E005"),
        ({"training_params": {"lr": 1e-4}, "learning_rate": 1e-3}, "E002"),
    ):
        with pytest.raises(LuminaError) as refused:
            Config(**wrong)
        assert refused.value.code == code and refused.value.hint


def test_an_experiment_name_places_the_run() -> None:
    named = Config(experiment_name="first")
    assert named.run.run_dir == "runs/first"
    assert "experiment_name" in str(named.provenance["run_dir"])
    assert named.replace(experiment_name="second").run.run_dir == "runs/second"
    elsewhere = named.replace(run_dir="here")
    assert elsewhere.run.run_dir == "here"
    assert any("experiment_name" in text for text in elsewhere.warnings())
    assert not any("experiment_name" in text for text in named.warnings())
    for name in ("a/b", "..", "", " "):
        with pytest.raises(LuminaError) as refused:
            Config(experiment_name=name)
        assert refused.value.code == "E005"


def test_one_path_stands_for_a_list_of_one():
    config = Config(train_data=Path("a.txt"))
    assert config.data.train_data == ("a.txt",)
    assert config.replace(eval_data=Path("b.txt")).data.eval_data == ("b.txt",)


@pytest.mark.covers("CFG-03: attribute edit")
def test_options_of_a_preset_are_set_as_attributes(tmp_path: Path) -> None:
    config = ConfigPresets.debug()
    config.lr = 1e-4
    config.train_data = ["a", "b"]
    # Neither goes with the preset alone; together they do.
    config.num_heads = 8
    config.hidden_size = 256
    assert config.learning_rate == 1e-4 == config.train.learning_rate
    assert config.provenance["learning_rate"].kind == "python"
    config.save(tmp_path / "run.yaml")
    loaded = Config.load(tmp_path / "run.yaml")
    assert loaded == config.settled() and loaded.data.train_data == ("a", "b")
    settled = config.settled()
    with pytest.raises(AttributeError, match="replace"):
        settled.learning_rate = 1.0
    with pytest.raises(LuminaError, match="E005"):
        config.learning_rate = -1
    with pytest.raises(AttributeError, match="learning_rate"):
        config.lerning_rate = 1
    with pytest.raises(AttributeError, match="section"):
        config.train = 1
    config.hidden_size = 100
    for use in (config.settled, lambda: config.save("x"), lambda: config.replace(lr=1)):
        with pytest.raises(LuminaError, match="E002"):
            use()
    assert ConfigPresets.debug().train.learning_rate != 1e-4
    assert copy.deepcopy(settled) == settled == pickle.loads(pickle.dumps(settled))


@pytest.mark.parametrize(
    ("asked", "leaf", "value"),
    [
        ({"num_gpus": 2}, "nproc", 2),
        ({"nproc_per_node": 2}, "nproc", 2),
        ({"ddp": True}, "parallel", "ddp"),
        ({"ddp": False}, "parallel", Config().system.parallel),
        ({"sequence_length": 64}, "seq_length", 64),
    ],
)
def test_the_documents_names_of_processes_and_lengths(asked, leaf, value) -> None:
    assert Config(**asked).get(leaf) == value
