"""Spellings of options: synonyms, groups of options, and names that hint at one."""

from __future__ import annotations

DICTIONARIES = (
    "training_params", "data_params", "checkpoint_params", "monitoring_params",
)  # fmt: skip
"""Groups of options that the earlier designs write as dictionaries; any option may
stand in any of them."""

SYNONYMS: dict[str, str] = {
    "config": "preset",
    "model_size": "preset",
    "lr": "learning_rate",
    "max_seq_len": "seq_length",
    "num_experts_per_tok": "moe_top_k",
    "moe_capacity_factor": "capacity_factor",
    "gradient_accumulation_steps": "grad_accum",
    "dataset_file": "train_data",
    "train_data_path": "train_data",
    "eval_file": "eval_data",
    "eval_data_path": "eval_data",
    "num_epochs": "epochs",
    "resume_from_checkpoint": "resume",
    "model": "init_from",
    "base_model": "init_from",
    "log_every_n_steps": "log_every_n_batches",
    "eval_every_n_steps": "eval_every_n_batches",
    "save_every_n_steps": "save_every_n_batches",
    "max_grad": "max_grad_norm",
    "moe": "use_moe",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "use_flash_attention": "attention",
    "use_flash_attn": "attention",
    "enable_flash_attention": "attention",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "output_dir": "run_dir",
    "per_device_train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "sequence_len": "seq_length",
    "eval_steps": "eval_every_n_batches",
    "save_steps": "save_every_n_batches",
    "logging_steps": "log_every_n_batches",
    "lr_scheduler_type": "lr_scheduler",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_epsilon": "eps",
    "bf16": "precision",
    "fp16": "precision",
    "force_streaming": "data_loading",
    "force_memory_loading": "data_loading",
}
"""Spellings of the earlier designs, of transformers' Trainer and of axolotl, mapped to
the one key. `leaves.understood` knows which of their values mean something else."""

SWITCHES: dict[str, tuple[str, object]] = {
    "force_streaming": ("data_loading", "streaming"),
    "force_memory_loading": ("data_loading", "memory"),
}
"""Switches of the earlier designs that stand for one value of an option; switched off,
they say nothing."""

MEANT: dict[str, str] = {
    "datasets": "train_data names files, folders or globs",
    "dataset": "train_data names files, folders or globs",
    "data": "train_data names files, folders or globs",
    "data_path": "train_data names files, folders or globs",
    "train_file": "train_data names files, folders or globs",
    "test_datasets": "eval_data names the held-out files",
    "validation_file": "eval_data names the held-out files",
    "val_set_size": "eval_fraction is the share split off",
    "eval_strategy": "eval_every_n_batches says how often",
    "evaluation_strategy": "eval_every_n_batches says how often",
    "save_strategy": "save_every_n_batches says how often",
    "logging_strategy": "log_every_n_batches says how often",
    "evals_per_epoch": "eval_every_n_batches counts steps",
    "saves_per_epoch": "save_every_n_batches counts steps",
    "per_device_eval_batch_size": "evaluation uses batch_size",
    "eval_batch_size": "evaluation uses batch_size",
    "optim": "optimizer is adamw, adam_atan2 or a registered one",
    "tf32": "precision is tf32",
    "dtype": "precision says what is computed in",
    "torch_dtype": "precision says what is computed in",
    "logging_dir": "run_dir holds the logs too",
    "out_dir": "run_dir says where the run goes",
    "run_name": "experiment_name names the run",
    "model_name_or_path": "init_from names the model to start from",
    "persistent_workers": "the threads of num_workers live as long as the run",
    "dataloader_persistent_workers": "the threads of num_workers live as long as the "
    "run",
    "dataloader_prefetch_factor": "prefetch_factor counts steps made ahead",
    "dataloader_pin_memory": "pin_memory says so",
    "dataloader_num_workers": "num_workers is the number of threads that tokenise",
    "torch_compile": "compile says whether blocks are compiled",
    "max_length": "seq_length is the length of a sequence",
    "context_length": "seq_length is the length of a sequence",
    "block_size": "seq_length is the length of a sequence",
    "max_iters": "steps is the number of optimizer steps",
    "num_steps": "steps is the number of optimizer steps",
    "train_batch_size": "batch_size is per device, global_batch_size over all",
    "clip_grad": "max_grad_norm is where the gradient's norm is clipped",
    "gradient_clipping": "max_grad_norm is where the gradient's norm is clipped",
    "n_layer": "num_layers is the number of layers",
    "n_head": "num_heads is the number of heads",
    "n_embd": "hidden_size is the width",
    "d_model": "hidden_size is the width",
}
"""Names of other trainers that are no spelling of an option: what to use instead."""
