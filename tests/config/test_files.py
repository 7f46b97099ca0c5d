"""Configuration files: what is read, what is written, what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.config import Config, ConfigPresets
from lumina.config.sections import LEAVES
from lumina.errors import LuminaError
from option_values import values_of


def written(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def refusal(path: Path) -> LuminaError:
    with pytest.raises(LuminaError) as refused:
        Config.load(path)
    return refused.value


@pytest.mark.covers(
    "CFG-02: YAML files --config-file, load and save",
    "CFG-15: effective configuration saved",
    "CFG-03: save",
)
def test_saved_settings_come_back_with_their_sources(tmp_path: Path) -> None:
    config = ConfigPresets.debug().replace(
        train_data=["a b", "# c", "käse: x"], learning_rate=1.25e-5, run_dir="no"
    )
    path = tmp_path / "config.yaml"
    config.save(path)
    again = Config.load(path)
    assert again == config
    # What the preset said is still the preset's, so that it can still give way.
    assert again.provenance["global_batch_size"].label == "preset debug"
    assert again.provenance["beta1"].kind == "default"
    assert again.provenance["learning_rate"].label == f"file {path}"
    text = path.read_text()
    assert "  learning_rate: 1.25e-05  # python, overrides preset debug: 0.003" in text
    # Editing a line of a saved file counts.
    path.write_text(text.replace("global_batch_size: 16", "global_batch_size: 32"))
    assert Config.load(path).provenance["global_batch_size"].kind == "file"


@pytest.mark.covers("CFG-14: synonyms mapped", "CFG-02: keys of the example")
def test_the_documents_example_flat_and_sectioned(tmp_path: Path) -> None:
    flat = """
        vocab_size: 50304
        hidden_size: 2048
        num_layers: 22
        num_heads: 16
        num_kv_heads: 8
        seq_length: 4096
        intermediate_size: 5504
        batch_size: 4
        gradient_accumulation_steps: 4
        learning_rate: 1e-4
        min_lr: 1e-6
        weight_decay: 0.01
        num_epochs: 3
        warmup_ratio: 0.15
        max_grad_norm: 1.0
        precision: mixed_bf16
        gradient_checkpointing: true
        use_flash_attention: false
        use_moe: true
        num_experts: 16
        moe_top_k: 2
        capacity_factor: 1.5
        load_balancing_weight: 0.01
        train_data_path: data/train.jsonl
        eval-data-path: data/eval.jsonl
        num_workers: 4
        max_conversations_per_file: 10000
        max_new_tokens: 512
        temperature: 0.8
        top_p: 0.9
        top_k: 50
        experiment_name: first
        save_every_n_batches: 1000
        eval_every_n_batches: 500
        save_total_limit: 5
        early_stopping_patience: 5
    """
    config = Config.load(written(tmp_path, flat))
    assert config.model.intermediate_size == 5504
    assert config.train.grad_accum == 4 and config.train.epochs == 3
    assert config.train.learning_rate == 1e-4 and config.train.min_lr == 1e-6
    assert config.data.train_data == ("data/train.jsonl",)
    assert config.system.gradient_checkpointing == "full"
    assert config.system.attention == "sdpa"
    assert config.data.max_conversations_per_file == 10000
    assert (config.answering.max_new_tokens, config.answering.top_k) == (512, 50)
    assert (config.answering.temperature, config.answering.top_p) == (0.8, 0.9)
    assert config.run.run_dir == "runs/first"
    sectioned = "model: {hidden-size: 2048}\nmoe:\ntrain:\n  lr: 1e-4\n"
    config = Config.load(written(tmp_path, sectioned))
    assert config.model.hidden_size == 2048 and config.train.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("steps: 5\n  lr: [1\n", "E101", "line 2"),
        ("- a\n- b\n", "E101", "list"),
        ("just words\n", "E101", "str"),
        ("lr: 1e-4\nlr: 1e-3\n", "E101", "line 2: the key 'lr' is given twice"),
        ("lr: 1e-4\nlearning_rate: 1e-3\n", "E002", "twice"),
        ("stepps: 5\n", "E004", "'stepps'"),
        ("train: {seq_length: 5}\n", "E004", "'seq_length'"),
        ("trainn: {steps: 5}\n", "E004", "'trainn'"),
        ("quantization_bits: 5\n", "E005", "quantization_bits"),
        ("train: 5\n", "E005", "'train'"),
        ("? [a]\n: b\n", "E101", "line 1"),
        ("asked: 5\n", "E005", "asked"),
        ("steps: -1\n", "E005", "-1"),
        ("steps: [1, 2]\n", "E005", "[1, 2]"),
        ("preset: nope\n", "E001", "nope"),
        ("steps: !!python/object/apply:os.getcwd []\n", "E101", "line 1"),
    ],
)
def test_refused_files_say_what_and_where(
    tmp_path: Path, text: str, code: str, says: str
) -> None:
    error = refusal(written(tmp_path, text))
    assert error.code == code and says in error.message and error.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").code == "E104"
    assert refusal(tmp_path).code == "E106"
    (tmp_path / "config.yaml").touch()  # the folder of a run
    assert refusal(tmp_path).hint == f"name {tmp_path / 'config.yaml'}"
    (tmp_path / "config.yaml").unlink()
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"run_dir: caf\xe9\n")
    assert refusal(latin).code == "E103"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = written(tmp_path, "steps: 5\n")
    path.chmod(0)
    assert refusal(path).code == "E106"


def test_saving_where_one_cannot(tmp_path: Path) -> None:
    with pytest.raises(LuminaError, match="E104"):
        Config().save(tmp_path / "none" / "config.yaml")
    with pytest.raises(LuminaError, match="E106"):
        Config().save(tmp_path)


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert Config.load(written(tmp_path, "")) == Config()


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = "train: &a {steps: 5}\nrun:\n  <<: {run_dir: x}\n"
    config = Config.load(written(tmp_path, text))
    assert config.train.steps == 5 and config.run.run_dir == "x"


def test_odd_characters_in_a_source_do_not_break_the_file(tmp_path: Path) -> None:
    config = Config(run_dir="a\x07\u2028b").replace(run_dir="c")
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029"])
def test_characters_that_end_a_line_in_yaml_survive_saving(
    tmp_path: Path, character: str
) -> None:
    path = f"a{character}b.txt"
    config = Config(train_data=(path, character), tokenizer=path)
    config.save(tmp_path / "config.yaml")
    assert Config.load(tmp_path / "config.yaml").data == config.data


@given(st.data())
@settings(max_examples=60)
def test_any_accepted_value_survives_saving(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    leaves = data.draw(st.lists(st.sampled_from(sorted(LEAVES)), max_size=6))
    chosen = {leaf: data.draw(values_of(leaf), label=leaf) for leaf in leaves}
    try:
        config = Config(preset="debug", **chosen)
    except LuminaError as refused:
        # E003: what no training can do. A path that begins with ~ names a home folder,
        # known or not.
        homes = any("~" in str(value) for value in chosen.values())
        wanted = ("E002", "E003", "E005", *(("E104",) if homes else ()))
        assert refused.code in wanted
        return
    path = tmp_path_factory.mktemp("saved") / "config.yaml"
    config.save(path)
    assert Config.load(path) == config


@pytest.mark.parametrize(
    ("leaf", "number"),
    [("tier", 3), ("activation_bits", 8), ("quantization_bits", 4)],
)
def test_a_number_is_the_choice_that_is_written_so(
    tmp_path: Path, leaf: str, number: int
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"{leaf}: {number}\n")
    section = getattr(Config.load(path), LEAVES[leaf])
    assert getattr(section, leaf) == str(number)
    path.write_text(f"{leaf}: true\n")
    with pytest.raises(LuminaError, match=f"{leaf} cannot be True"):
        Config.load(path)


def test_saved_file_is_plain_yaml(tmp_path: Path) -> None:
    values = yaml.safe_load(ConfigPresets.get("l2:b7").to_yaml())
    assert values["preset"] == "l2:b7"
    assert values["model"]["hidden_size"] == 3072
    assert values["train"]["batch_size"] is None


@pytest.mark.parametrize(
    ("line", "leaf", "value"),
    [
        ("seed: 010", "seed", 10),
        ("seed: 0o17", "seed", None),
        ("steps: 1:30", "steps", None),
        ("learning_rate: 1:30.5", "learning_rate", None),
        ("seed: 1_000", "seed", 1000),
        ("seed: 0x10", "seed", 16),
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("learning_rate: .5", "learning_rate", 0.5),
        ("beta1: 00.5", "beta1", 0.5),
        ("deterministic: yes", "deterministic", True),
        ("use_moe: off", "use_moe", False),
        ("compile: No", "compile", False),
        ("gradient_checkpointing: on", "gradient_checkpointing", "full"),
        ("gradient_checkpointing: off", "gradient_checkpointing", "none"),
        ("experiment_name: no", "experiment_name", "no"),
        ("experiment_name: 010", "experiment_name", "010"),
        ("experiment_name: 2024-05-01", "experiment_name", "2024-05-01"),
        ("run_dir: 1:30", "run_dir", "1:30"),
        ("train_data: [on, 007]", "train_data", ("on", "007")),
        ("steps: on", "steps", None),
        ("experiment_name: true", "experiment_name", None),
    ],
)
def test_words_are_read_as_they_are_written(
    line: str, leaf: str, value: object, tmp_path: Path
) -> None:
    path = written(tmp_path, line + "\n")
    if value is None:
        error = refusal(path)
        assert error.code == "E005" and leaf in str(error)
        return
    config = Config.load(path)
    assert config.get(leaf) == value and type(config.get(leaf)) is type(value)
    config.save(tmp_path / "again.yaml")
    assert Config.load(tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    "text", ["adaptive: on", "adaptive:\n  adaptive: on", "use_adaptive_training: yes"]
)
def test_an_option_of_the_name_of_its_section_stands_alone_or_in_it(
    tmp_path: Path, text: str
) -> None:
    path = written(tmp_path, f"{text}\nmetrics: basic\n")
    assert Config.load(path).adaptive.adaptive == "on"
    assert Config.load(path).metrics.metrics == "basic"
