"""The tables of names: what stands on the left is understood, or answered, here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lumina.cli.main import COMMANDS
from lumina.config.leaves import canonical, meaning
from lumina.config.names_elsewhere import NAMES
from lumina.config.sections import LEAVES
from lumina.config.spellings import MEANT
from lumina.errors import LuminaError

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"
TABLES = ("transformers (Trainer)", "axolotl", "LLaMA-Factory", "torchtitan",
          "nanochat")  # fmt: skip
NO_NAMES = {"qlora", "ppo", "rm", "kto", "name", "mode", "enable", "run"}
"""Values of options, and names that each section of torchtitan or a script has."""


def rows() -> list[tuple[str, list[str], str]]:
    """Table, names on the left, and what stands on the right."""
    found, table = [], ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            table = line[3:].strip().split(" (`")[0]
        elif line.startswith("| ") and table:
            left, right = line.strip("| ").split(" | ", 1)
            names = [name_of(text) for text in re.findall(r"`([^`]+)`", left)]
            found.append((table, [name for name in names if name], right))
    return found


def name_of(text: str) -> str:
    """The bare name of an option: of `[training] steps`, `--depth` or `optim="x"`."""
    text = re.sub(r"^\[\w+\] ", "", text).removeprefix("--")
    name = re.split(r"[:=( \[]", text)[0]
    return "" if "." in name else name


def test_every_trainer_has_its_table() -> None:
    assert {table for table, _, _ in rows()} == set(TABLES)
    assert len(rows()) > 70


@pytest.mark.parametrize("table", TABLES)
def test_names_are_taken_or_answered_with_an_option(table: str) -> None:
    for name in (n for t, names, _ in rows() if t == table for n in names):
        if name in NO_NAMES:
            continue
        try:
            canonical(name)
        except LuminaError:
            words = set(re.findall(r"\w+", meaning(name)))
            assert words & {*LEAVES, "lumina", "best"}, f"{name}: {meaning(name)}"


def test_options_on_the_right_are_options() -> None:
    others = {"--best-metric", "--max-seq-len", "--deepspeed"}
    for _, _, right in rows():
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", right):
            name = flag.removeprefix("--").removeprefix("no-")
            assert flag in others or canonical(name), flag


def test_no_answer_hides_an_option() -> None:
    for name in NAMES:
        with pytest.raises(LuminaError):
            canonical(name)


def test_answers_name_options_and_commands_that_exist() -> None:
    values = {"mixed_fp8"}
    for name, said in NAMES.items():
        said = said.replace("dataset_info.json", "")
        words = set(re.findall(r"\b[a-z][a-z_0-9]*", said))
        assert words & {*LEAVES, "lumina", "best"}, f"{name}: {said}"
        assert {w for w in words if "_" in w} <= {*LEAVES, *values}, f"{name}: {said}"
        for command in re.findall(r"`lumina (\w+)", said):
            assert command in COMMANDS, f"{name}: {said}"


CONFIGURATIONS = {
    "axolotl": "base_model tokenizer_type load_in_4bit datasets val_set_size adapter "
    "sequence_len sample_packing pad_to_sequence_len lora_target_linear wandb_entity "
    "micro_batch_size num_epochs train_on_inputs group_by_length bf16 local_rank "
    "xformers_attention flash_attention evals_per_epoch saves_per_epoch deepspeed fsdp "
    "fsdp_config special_tokens save_safetensors s2_attention lora_modules_to_save "
    "loss_watchdog_threshold liger_rms_norm neftune_noise_alpha",
    "LLaMA-Factory": "model_name_or_path trust_remote_code stage do_train "
    "finetuning_type lora_rank lora_target dataset template cutoff_len max_samples "
    "overwrite_cache preprocessing_num_workers plot_loss overwrite_output_dir "
    "ddp_timeout val_size eval_strategy use_badam quantization_bit enable_liger_kernel "
    "loraplus_lr_ratio use_rslora pissa_init additional_target export_dir",
    "torchtitan": "dump_folder description enable_profiling save_traces_folder "
    "profile_freq log_freq flavor hf_assets_path converters lr decay_ratio decay_type "
    "min_lr_factor local_batch_size seq_len max_norm tensor_parallel_degree "
    "fsdp_reshard_after_forward enable_checkpoint interval last_save_model_only "
    "export_dtype async_mode selective_ac_option filter_fqns expert_parallel_degree",
    "nanochat": "run device_type fp8 depth aspect_ratio max_seq_len window_pattern "
    "num_iterations target_param_data_ratio device_batch_size total_batch_size "
    "scalar_lr warmdown_ratio eval_tokens core_metric_every sample_every model_tag",
    "transformers": "evaluation_strategy prediction_loss_only eval_accumulation_steps "
    "lr_scheduler_kwargs logging_first_step save_only_model ddp_backend label_names "
    "dataloader_drop_last remove_unused_columns optim_args full_determinism "
    "torch_compile_backend use_liger_kernel tokenizer_name dataset_name",
}
"""Names that stand in configurations of these trainers."""


@pytest.mark.parametrize("trainer", CONFIGURATIONS)
def test_a_name_of_a_configuration_is_taken_or_answered(trainer: str) -> None:
    for name in CONFIGURATIONS[trainer].split():
        if name not in NAMES and name not in MEANT:
            canonical(name)
