"""The typed sections of a configuration: every option, its type, default and meaning.

A leaf name is unique over all sections: it is the option on the command line (in
kebab-case), the key in YAML and the keyword in Python. `None` means "decide for me";
the Plan says what was decided and why.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.model_sections import MODEL_SECTIONS, Section


class DataSection(Section):
    """What is read, and how it becomes tokens."""

    train_data: tuple[str, ...] = Field(
        (), description="files, folders or globs (.txt, .jsonl) to train on"
    )
    eval_data: tuple[str, ...] = Field(
        (), description="held-out files; default: split off the training data"
    )
    eval_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the documents split off; default: 15% of fewer than "
        "5,000, 10% of up to 50,000, 5% of more",
    )
    tokenizer: str | None = Field(
        None, description="a tokenizer.json or its folder; default: train byte BPE"
    )
    tokenizer_vocab_size: int | None = Field(
        None,
        ge=260,
        description="size of a tokenizer trained on the data; default: 2,048 to 50,304 "
        "by its bytes, at most vocab_size",
    )
    loss_on: Literal["assistant", "all"] = Field(
        "assistant", description="which turns of a conversation bear loss"
    )
    long_conversations: Literal["split", "truncate", "drop", "cut"] = Field(
        "split",
        description="a conversation longer than a row: split it into pieces that each "
        "have the question, truncate it, drop it, or cut it where the row ends and go "
        "on without the question, as earlier versions did",
    )
    data_errors: Literal["skip", "fatal"] = Field(
        "fatal", description="a bad record: skip it and say so, or stop"
    )
    max_record_bytes: int = Field(
        8 * 2**20, ge=1024, description="a longer line or record is a bad record"
    )
    tasks: tuple[str, ...] = Field(
        (), description="tasks in place of train_data, each NAME=PATH; a head for each"
    )
    task_eval_data: tuple[str, ...] = Field(
        (), description="held-out files of tasks, NAME=PATH; default: split off"
    )
    task_sampling_strategy: Literal["proportional", "round_robin"] = Field(
        "proportional",
        description="whose rows come: as many as a task has, or turn by turn",
    )


class TrainSection(Section):
    """How the weights are fitted."""

    init_from: str | None = Field(
        None,
        description="a run, checkpoint or exported folder to take weights from; rate, "
        "batch, length and schedule are then those of a fine-tuning of a model of that "
        "size, whatever the preset, unless you name them; for a "
        "reasoner of text also a language model to take tokenizer and vectors from",
    )
    freeze: tuple[str, ...] = Field(
        (), description="parameters (glob patterns) that do not train"
    )
    expert_id: str | None = Field(
        None, description="train this one expert, added to a frozen --init-from model"
    )
    expert_registry: str = Field(
        "experts", description="folder of the registry that named experts are kept in"
    )
    default_goal: str | None = Field(
        None, description="goal the trained expert serves; routing leans towards it"
    )
    steps: int | None = Field(
        None, ge=1, description="optimizer steps; default: those of the epochs"
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the data; the smaller limit holds; default: 3 where "
        "steps are not named",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences per device and forward; default: the largest power of "
        "two that divides a step and fits into memory",
    )
    grad_accum: int | None = Field(
        None,
        ge=1,
        description="forwards per device and step; default: as many as a step needs",
    )
    global_batch_size: int | None = Field(
        None,
        ge=1,
        description="sequences per step over all devices; default: about 32",
    )
    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate")
    auto_adjust_lr: bool = Field(
        True, description="lower a dense model's usual rate for routed experts"
    )
    min_lr: float | None = Field(
        None, ge=0, description="final learning rate; default: a tenth of the peak"
    )
    lr_scheduler: Literal["constant", "linear", "cosine", "wsd"] = Field(
        "cosine", description="shape of the learning rate after warm-up"
    )
    warmup_steps: int | None = Field(
        None,
        ge=0,
        description="steps of linear warm-up; wins over the ratio, its default",
    )
    warmup_ratio: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the run spent on warm-up; default: 0.1 of fewer than "
        "10,000 steps, 0.05 of up to 100,000, 0.02 of more",
    )
    decay_ratio: float = Field(
        0.2, gt=0, le=1, description="share of the run that decays (wsd)"
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled, on matrices only")
    optimizer: Literal["adamw", "adam_atan2"] = Field(
        "adamw", description="AdamW, or Adam with atan2 in place of the division"
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first decay rate")
    beta2: float = Field(0.95, ge=0, lt=1, description="Adam's second decay rate")
    eps: float = Field(1e-8, gt=0, description="Adam's epsilon")
    max_grad_norm: float = Field(
        1.0, ge=0, description="clip the global gradient norm; 0: do not clip"
    )
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="moving average of weights for evaluation; 0: off"
    )
    seed: int = Field(
        42,
        ge=0,
        le=2**63 - 1,
        description="seed of weights, data order and dropout",
    )
    eval_every_n_batches: int | None = Field(
        None,
        ge=0,
        description="steps between evaluations; 0: only at the end; default: a tenth "
        "of the run, at least 50",
    )
    eval_batches: int | None = Field(
        None, ge=1, description="batches in an evaluation; default: all, at most 50"
    )
    early_stopping_patience: int = Field(
        0, ge=0, description="evaluations without improvement before stopping; 0: off"
    )
    task_weights: tuple[float, ...] = Field(
        (), description="weights of the tasks' losses; default: every token counts once"
    )
    task_balancing: Literal["none", "dwa"] = Field(
        "none", description="dwa: more weight for tasks whose loss falls more slowly"
    )
    task_balancing_window: int = Field(
        50, ge=1, description="steps whose mean loss task_balancing compares"
    )


class RunSection(Section):
    """Where a run lives and what it leaves behind."""

    run_dir: str | None = Field(None, description="default: runs/PRESET-DATE-TIME")
    experiment_name: str | None = Field(
        None, description="puts the run in runs/NAME where no run_dir is given"
    )
    resume: str | None = Field(
        None, description="a run or checkpoint to go on from; or 'latest'"
    )
    auto_resume: bool = Field(
        False, description="go on from the run directory if it holds a checkpoint"
    )
    save_every_n_batches: int | None = Field(
        None,
        ge=0,
        description="steps between checkpoints; 0: only at the end; default: a tenth "
        "of the run, at least 100",
    )
    save_total_limit: int = Field(
        3, ge=1, description="regular checkpoints kept (best and last always are)"
    )
    report_samples: int = Field(
        3, ge=0, description="held-out texts continued in the run's report; 0: none"
    )
    log_every_n_batches: int = Field(
        10, ge=1, description="steps between console lines"
    )


class SystemSection(Section):
    """How it runs on this machine."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to run")
    nproc: int | None = Field(
        None,
        ge=1,
        description="processes to start on this machine (else torchrun); default: 1",
    )
    parallel: Literal["auto", "none", "ddp", "fsdp2"] = Field(
        "auto", description="how several processes share the work"
    )
    precision: Literal[
        "auto", "fp32", "tf32", "bf16", "fp16", "mixed_bf16", "mixed_fp16"
    ] = Field("auto", description="compute type; master weights stay float32")
    gradient_checkpointing: Literal["none", "full", "selective"] | None = Field(
        None,
        description="recompute activations; default: no more than memory needs",
    )
    compile: bool | None = Field(
        None, description="compile blocks; default: on CUDA with a compiler"
    )
    attention: Literal["auto", "flash3", "flash2", "sdpa", "reference"] = Field(
        "auto",
        description="who computes attention; a flash kernel that cannot be had gives "
        "way to the next, with a warning",
    )
    loss_chunk_bytes: int | None = Field(
        None,
        ge=2**16,
        description="most bytes of logits held at a time; default: 256 MiB, or 1 GiB "
        "on a GPU with room for it",
    )
    deterministic: bool = Field(
        False, description="bit-identical repeats, at the cost of speed"
    )
    num_workers: int | None = Field(
        None, ge=0, description="threads that tokenise; default: the cores"
    )


SECTIONS: dict[str, type[Section]] = {
    **MODEL_SECTIONS,
    "data": DataSection,
    "train": TrainSection,
    "run": RunSection,
    "system": SystemSection,
}

LEAVES: dict[str, str] = {
    leaf: name for name, section in SECTIONS.items() for leaf in section.model_fields
}
"""Leaf name -> section name."""

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
}
"""Spellings of the earlier designs, of transformers' Trainer and of axolotl, mapped to
the one key. `leaves.understood` knows which of their values mean something else."""

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
    "optim": "optimizer is adamw or adam_atan2",
    "tf32": "precision is tf32",
    "dtype": "precision says what is computed in",
    "torch_dtype": "precision says what is computed in",
    "logging_dir": "run_dir holds the logs too",
    "out_dir": "run_dir says where the run goes",
    "run_name": "experiment_name names the run",
    "model_name_or_path": "init_from names the model to start from",
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
