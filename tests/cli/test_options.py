"""Config options on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.cli.options import add_config_options, config_from_args, flags_from_args
from lumina.cli.parsing import Parser, parse
from lumina.config import Config
from lumina.config.leaves import choices, field, is_list, value_type
from lumina.config.modifications import MODIFIERS
from lumina.config.provenance import show
from lumina.config.sections import LEAVES
from lumina.data.split import eval_share
from lumina.errors import LuminaError


def config(*words: str) -> Config:
    return config_from_args(args(*words))


def args(*words: str) -> argparse.Namespace:
    parser = Parser(prog="lumina test")
    add_config_options(parser, dry_run=True)
    return parse(parser, words)


def other_value(leaf: str) -> str:
    """A value that is not the leaf's default, as one would type it."""
    if choices(leaf):
        default = Config().get(leaf)
        return next(word for word in choices(leaf) if word != default)
    texts = {
        "vocab_size": "640", "hidden_size": "256", "tokenizer_vocab_size": "300",
        "max_unpacking_ratio": "9.5",
        "max_record_bytes": "4096", "loss_chunk_bytes": "131072", "rope_theta": "5e5",
        "activation_budget": "4194304", "cap_memory": "8 GB",
        "max_grad_norm": "0.25", "epochs": "2.5", "capacity_factor": "2.5",
        "triton_block_q": "32", "triton_block_kv": "32",
        "num_kv_heads": "2", "rope_factor": "4", "rope_high_freq_factor": "8",
        "mod_capacity_ladder": "0.125", "mod_capacity_schedule": "0.125",
        "tasks": "a=b", "task_eval_data": "a=b", "task_weights": "0.125",
        "sources": "a=b", "source_eval_data": "a=b", "phases": "a: steps=3",
        "context_schedule": "0:128",
        "loss_on": "all", "role_weights": "user=0.5",
        "base_perplexity_threshold": "9.5", "max_base_ratio": "0.5",
        "h_layers": "3", "l_layers": "3", "part_options": "mine.width=3",
        "data_options": "size=3", "optimizer_options": "eps=0.5",
        "modify_config": "weight_decay=0.5",
    }  # fmt: skip
    if leaf in texts:
        return texts[leaf]
    return "0.125" if value_type(leaf) is float else "4"


LATENT = ["--num-kv-heads", "2", "--mla-kv-rank", "12"]


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.covers("CFG-14: hyphen and underscore flag spellings")
def test_every_leaf_is_an_option_in_both_spellings(leaf: str) -> None:
    # What some values need beside them.
    beside = {
        "context_schedule": ["--steps", "9"],
        "rope_factor": ["--rope-scaling", "linear"],
        "attention_sinks": ["--window-size", "8"],
        "attention_dilation": ["--window-size", "8"],
        "rope_original_length": ["--rope-scaling", "yarn"],
        "rope_low_freq_factor": ["--rope-scaling", "llama3"],
        "rope_high_freq_factor": ["--rope-scaling", "llama3"],
        "node_rank": ["--num-nodes", "5"],
        "min_lr": ["--learning-rate", "0.5"],
        "dataset_start_offset": ["--linear-dataset"],
        "iterate": ["--steps", "3"],
        "quality_field": ["--curriculum", "quality"],
        "score_model": ["--sample-by", "loss"],
        "use_mor": ["--num-layers", "4"],
        "lr_transfer": ["--base-width", "64", "--no-tie-embeddings"],
        **{modifier: ["--resume", "runs/one"] for modifier in MODIFIERS},
        "use_hrm": [
            "--no-use-moe",
            "--no-tie-embeddings",
            "--tokenizer-vocab-size=auto",
        ],
        "start_from_experience": ["--adaptive", "on"],
        "repeat_check_every": ["--deterministic"],
        "backbone": ["--no-use-moe"],
        "block_style": ["--no-use-moe"],
        "fp8_experts": ["--precision", "mixed_fp8"],
        "optimizer_in_backward": ["--max-grad-norm", "0"],
        "expert_id": ["--init-from", "base"],
        "use_peft": ["--init-from", "base"],
        "embedding_in": ["--use-peft", "--init-from=base", "--no-tie-embeddings"],
        "weights_in": ["--use-peft", "--init-from=base"],
        "load_in_4bit": ["--use-peft", "--init-from", "base"],
        "load_in_8bit": ["--use-peft", "--init-from", "base"],
        "quantization_method": ["--use-peft", "--init-from", "base"],
        "tasks": ["--tasks", "c=d", "--no-tie-embeddings"],
        "moe_groups": ["--num-experts", "8"],
        "moe_top_groups": ["--num-experts", "8", "--moe-groups", "4"],
        "mla_kv_rank": LATENT[:2],
        "mla_q_rank": LATENT,
        "mla_rope_dim": LATENT,
        "mla_value_dim": LATENT,
    }.get(leaf, [])
    for spelling in {"--" + leaf, "--" + leaf.replace("_", "-")}:
        if value_type(leaf) is bool:
            on = config(spelling, *beside)
            off = config(spelling.replace("--", "--no-", 1), *beside)
            assert on.get(leaf) is True and off.get(leaf) is False
            assert off.provenance[leaf].kind == "flag"
            continue
        text = other_value(leaf)
        given = config(spelling, text, *beside)
        assert given.provenance[leaf].kind == "flag"
        expected = Config(preset="debug", **{leaf: text}) if not beside else given
        assert given.get(leaf) == expected.get(leaf) != Config().get(leaf)
        assert config(f"{spelling}={text}", *beside).get(leaf) == given.get(leaf)


def test_lists_take_several_values_several_times() -> None:
    given = config("--train-data", "a", "b", "--dataset-file", "c", "--freeze=*.q")
    assert given.data.train_data == ("a", "b", "c")
    assert given.train.freeze == ("*.q",)
    assert [leaf for leaf in LEAVES if is_list(leaf)]


@pytest.mark.parametrize(
    "flag", ["--preset", "--config", "--model_size", "--model-size"]
)
@pytest.mark.covers("CFG-19", "TRN-01: --config (preset)")
def test_a_preset_under_each_name(flag: str) -> None:
    assert config(flag, "b7").preset == "b7"


@pytest.mark.covers("PRE-12: --model_size 100M, 250M, 500M, 1B")
@pytest.mark.parametrize("size", ["100M", "250M", "500M", "1B"])
def test_hydra_size_as_its_users_write_it(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "explain", "--model_size", size]) == 0
    assert f"preset {size}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "leaf", "value"),
    [
        (["--lr", "1e-5"], "learning_rate", 1e-5),
        (["--num-experts-per-tok", "1"], "moe_top_k", 1),
        (["--moe-capacity-factor", "2"], "capacity_factor", 2.0),
        (["--gradient_accumulation_steps", "3"], "grad_accum", 3),
        (["--no-moe"], "use_moe", False),
        (["--drop-tokens"], "moe_dispatch", "capacity"),
        (["--no-drop-tokens"], "moe_dispatch", "dropless"),
        (["--gradient-checkpointing"], "gradient_checkpointing", "full"),
        (["--no-gradient-checkpointing"], "gradient_checkpointing", "none"),
        (["--use-flash-attn"], "attention", "auto"),
        (["--enable-flash-attention"], "attention", "auto"),
        (["--no_use_flash_attention"], "attention", "sdpa"),
        (["--lr-scheduler", "none"], "lr_scheduler", "constant"),
        (["--batch-size", "auto"], "batch_size", None),
    ],
)
@pytest.mark.covers(
    "CFG-14: synonyms mapped",
    "MOD-18: drop_tokens true/false",
    "MEM-01: --gradient-checkpointing/--no-gradient-checkpointing",
)
def test_documented_flags_and_synonyms(
    words: list[str], leaf: str, value: object
) -> None:
    assert config(*words).get(leaf) == value


def test_the_preset_nobody_named_is_debug(tmp_path: Path) -> None:
    assert config().preset == "debug"
    file = tmp_path / "run.yaml"
    file.write_text("steps: 3\n")
    assert config("--config-file", str(file)).preset is None
    assert config("--config-file", str(file), "--preset", "b1").preset == "b1"


def test_flags_over_a_run_being_resumed() -> None:
    base = Config(preset="b1", steps=5)
    resumed = config_from_args(args("--steps", "9"), base=base)
    assert resumed.preset == "b1" and resumed.train.steps == 9
    assert str(resumed.provenance["steps"]) == "flag, overrides python: 5"


def test_only_what_was_given_is_a_flag() -> None:
    assert flags_from_args(args("--steps", "9", "--dry-run")) == {"steps": "9"}
    assert args("--dry-run").dry_run


def test_a_command_may_take_a_few_options() -> None:
    parser = Parser(prog="lumina few")
    add_config_options(parser, leaves=["seed", "device"])
    assert parse(parser, ["--seed", "3"]).seed == "3"
    with pytest.raises(LuminaError, match="E004"):
        parse(parser, ["--steps", "3"])


def test_help_shows_what_a_run_without_flags_would_do() -> None:
    parser = Parser(prog="lumina train")
    add_config_options(parser)
    told = {action.dest: str(action.help) for action in parser._actions[::-1]}
    config = config_from_args(argparse.Namespace())
    for leaf in LEAVES:
        value = config.get(leaf)
        if value not in (None, ()) and leaf != "seq_length":
            assert f"{show(value)}" in told[leaf], leaf
    assert "(default 0.003 of preset debug" in told["learning_rate"]
    assert "of preset debug: 16" in told["global_batch_size"]
    assert "(default 256;" in told["seq_length"]
    for leaf in (
        "steps",
        "epochs",
        "batch_size",
        "warmup_ratio",
        "save_every_n_batches",
    ):
        assert "default" in told[leaf], leaf


def test_help_names_the_held_out_share_that_is_held_out() -> None:
    told = str(field("eval_fraction").description)
    for share, documents in ((0.15, 4999), (0.10, 50_000), (0.05, 50_001)):
        assert eval_share(documents) == share
        assert f"{share:.0%} of" in told
