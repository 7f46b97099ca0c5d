"""Names of other trainers that docs/coming-from.md translates: what to use here.

Beside `lumina.config.spellings.MEANT`: those are names that people also make up.
"""

from __future__ import annotations

_CACHE = "the cache keeps tokens (LUMINA_CACHE), and `lumina data prepare` fills it"
_SOURCES = "sources names several sets of data, and source_weights their shares"
_NOT_YET = "there is no such parallelism yet: parallel is ddp, zero2 or fsdp2"
_SHARDS = "parallel is ddp, zero2 or fsdp2, and nproc says among how many processes"
_MUON = "optimizer muon with group_learning_rates gives groups rates of their own"
_WSD = "lr_scheduler wsd has a decay_ratio, and min_lr is where it ends"

_WATCHED = "adaptive shadow or on watches the loss, and says what could be done"

_BY_ITSELF_PACKING = (
    "pad_to_sequence_len", "eval_sample_packing", "shuffle_merged_datasets",
    "dataloader_drop_last", "remove_unused_columns", "label_names",
    "average_tokens_across_devices",
)  # fmt: skip
_BY_ITSELF_KERNELS = (
    "xformers_attention", "liger_rope", "liger_rms_norm", "liger_glu_activation",
    "liger_fused_linear_cross_entropy", "cut_cross_entropy", "use_liger_kernel",
    "enable_liger_kernel", "use_unsloth", "lora_mlp_kernel", "lora_qkv_kernel",
    "lora_o_kernel", "torch_compile_backend", "torch_compile_mode",
)  # fmt: skip
_BY_ITSELF_FILES = (
    "save_safetensors", "overwrite_cache", "plot_loss", "ignore_data_skip", "folder",
)  # fmt: skip
_BY_ITSELF_RANKS = (
    "local_rank", "ddp_backend", "ddp_timeout", "ddp_find_unused_parameters",
    "fsdp_config", "gc_freq",
)  # fmt: skip
_NOT_THERE = (
    "neftune_noise_alpha", "s2_attention", "shift_attn", "use_badam", "badam_mode",
    "use_galore", "galore_rank", "lora_fan_in_fan_out", "is_llama_derived_model",
    "eval_table_size", "eval_max_new_tokens", "prediction_loss_only",
    "eval_accumulation_steps", "logging_first_step", "bf16_full_eval",
    "include_inputs_for_metrics",
)  # fmt: skip

NAMES: dict[str, str] = {
    # axolotl
    "dataset_prepared_path": _CACHE,
    "pretraining_dataset": "train_data names the data, and data_loading may be "
    "streaming",
    "auto_resume_from_checkpoints": "auto_resume goes on with the run in run_dir",
    # LLaMA-Factory
    "stage": "texts or conversations in train_data say which training it is",
    "dataset_dir": "train_data takes a folder with dataset_info.json as it is",
    "neat_packing": "packing keeps documents of a row apart by itself",
    "mix_strategy": _SOURCES,
    "interleave_probs": _SOURCES,
    "streaming": "data_loading is streaming",
    "val_size": "eval_fraction is the share split off, and eval_data names other data",
    "max_samples": "max_conversations_per_dataset is the most that is taken of each",
    "pure_bf16": "no amp with a model_dtype of bf16 keeps the weights in bfloat16",
    "tokenized_path": _CACHE,
    "preprocessing_num_workers": "num_workers is the number of threads that tokenise",
    # torchtitan
    "flavor": "preset names a shape, and hidden_size, num_layers and others make one",
    "max_norm": "max_grad_norm is where the gradient's norm is clipped",
    "mixed_precision_param": "precision says what is computed in",
    "min_lr_factor": "min_lr is the rate at the end, not a share of the peak",
    "data_parallel_shard_degree": _SHARDS,
    "data_parallel_replicate_degree": _SHARDS,
    "tensor_parallel_degree": _NOT_YET,
    "pipeline_parallel_degree": _NOT_YET,
    "interval": "save_every_n_batches says how often a checkpoint is written",
    "keep_latest_k": "save_total_limit is the number of checkpoints that are kept",
    "initial_load_path": "init_from names the model to start from",
    "log_freq": "log_every_n_batches says how often",
    "enable_tensorboard": "trackers takes tensorboard",
    "enable_wandb": "trackers takes wandb",
    "freq": "eval_every_n_batches says how often",
    "dump_folder": "run_dir says where the run goes",
    # nanochat
    "depth": "num_layers is the number of layers, and hidden_size the width",
    "aspect_ratio": "hidden_size is the width, and num_layers the number of layers",
    "window_pattern": "window_size is the same in all layers",
    "matrix_lr": _MUON,
    "embedding_lr": _MUON,
    "unembedding_lr": _MUON,
    "warmdown_ratio": _WSD,
    "final_lr_frac": _WSD,
    "eval_every": "eval_every_n_batches says how often",
    "save_every": "save_every_n_batches says how often",
    "sample_every": "sample_every_n_batches says how often",
    "resume_from_step": "resume names a run, or one of its checkpoints",
    "model_tag": "experiment_name names the run",
    # More of transformers and axolotl
    "lora_model_dir": "init_from a run with an adapter goes on training it",
    "adapter_name_or_path": "init_from a run with an adapter goes on training it",
    "lora_modules_to_save": "peft_also_train names what trains beside the adapter",
    # PEFT's LoraConfig and unsloth's get_peft_model
    "target_modules": "lora_target_modules names the matrices with an adapter",
    "modules_to_save": "peft_also_train names what trains beside the adapter",
    "additional_target": "peft_also_train names what trains beside the adapter",
    "use_rslora": "peft_method is rslora",
    "use_dora": "peft_method is dora",
    "pissa_init": "peft_method is pissa",
    "double_quantization": "load_in_4bit has double quantisation by itself",
    "lr_scheduler_kwargs": "lr_scheduler_options takes NAME=VALUE",
    "optim_args": "optimizer_options takes NAME=VALUE",
    "dataset_name": "train_data names files, folders, or hf://NAME",
    "dataset_config_name": "train_data names files, folders, or hf://NAME",
    "eval_dataset": "eval_data names files, folders, or hf://NAME",
    "validation_split_percentage": "eval_fraction is a share from 0 to 1",
    "max_train_samples": "max_conversations_per_dataset is the most of each",
    "config_name": "preset names a shape; hidden_size, num_layers and others change it",
    "config_overrides": "hidden_size, num_layers and others are options by themselves",
    "model_type": "init_from reads the kind of model from its folder",
    "tokenizer_type": "tokenizer names a folder, and what is in it says its kind",
    "special_tokens": "`lumina tokenizer extend` adds tokens to a model",
    "tokens": "`lumina tokenizer extend` adds tokens to a model",
    "full_determinism": "deterministic true computes the same to the bit each time",
    "export_dir": "`lumina export RUN FOLDER` writes a model for other tools",
    "upcast_layernorm": "precision keeps norms in float32 by itself",
    "disable_gradient_checkpointing": "gradient_checkpointing is none",
    "gradient_checkpointing_kwargs": "gradient_checkpointing names a kind of it",
    "use_muon": "optimizer is muon",
    "freeze_trainable_layers": "freeze takes patterns over names of weights",
    "use_llama_pro": "freeze takes patterns over names of weights",
    "wandb_entity": "trackers wandb takes WANDB_ENTITY from the environment",
    "wandb_watch": "weight_changes_every sends what weights do to all trackers",
    "wandb_log_model": "backup_dir keeps checkpoints in a second place, trackers none",
    "eval_on_start": "eval_every_n_batches says when, and `lumina evaluate` before",
    "eval_delay": "eval_every_n_batches says when the first evaluation is, too",
    **dict.fromkeys(("loss_watchdog_threshold", "loss_watchdog_patience"), _WATCHED),
    **dict.fromkeys(
        _BY_ITSELF_PACKING,
        "packing keeps documents of a row apart, and pads what is left, by itself",
    ),
    **dict.fromkeys(
        _BY_ITSELF_KERNELS,
        "attention and compile choose kernels by "
        "themselves, and loss_chunk_bytes computes logits in parts",
    ),
    **dict.fromkeys(
        _BY_ITSELF_FILES,
        "run_dir keeps everything in safetensors, and goes on "
        "with its own files; no option is needed",
    ),
    **dict.fromkeys(_BY_ITSELF_RANKS, "nproc and parallel set up what processes need"),
    **dict.fromkeys(
        _NOT_THERE,
        "there is nothing like it here (`lumina features` lists what there is)",
    ),
    # More of torchtitan
    "description": "experiment_name names the run, and `lumina runs tag` adds words",
    "converters": "precision mixed_fp8 computes in float8",
    "fp8": "precision mixed_fp8 computes in float8",
    "fp8_recipe": "precision mixed_fp8 scales each row by itself",
    "enable_fsdp_float8_all_gather": "precision mixed_fp8 sends weights in bfloat16",
    "filter_fqns": "precision mixed_fp8 leaves out the head by itself",
    "decay_type": "lr_scheduler is cosine, linear, wsd or another",
    "dataset_path": "train_data names the data",
    "fsdp_reshard_after_forward": _SHARDS,
    "enable_async_tensor_parallel": _NOT_YET,
    "expert_parallel_degree": "expert_parallel_size divides experts over processes",
    "enable_checkpoint": "save_every_n_batches says how often, and 0 is never",
    "last_save_model_only": "save_optimizer_states false keeps only weights",
    "model_weights_only": "save_optimizer_states false keeps only weights",
    "save_only_model": "save_optimizer_states false keeps only weights",
    "export_dtype": "`lumina export RUN FOLDER --dtype bfloat16` says it",
    "async_mode": "save_every_n_batches says when; they are written beside the steps",
    "selective_ac_option": "gradient_checkpointing is selective, sqrt or budget",
    "components": "compile compiles each block",
    "mixed_precision_reduce": "precision says what is computed in; sums are float32",
    **dict.fromkeys(
        (
            "save_traces_folder",
            "profile_freq",
            "enable_memory_snapshot",
            "save_memory_snapshot_folder",
        ),
        "`lumina profile training` writes a trace; there is `lumina profile memory`",
    ),
    "save_tb_folder": "tensorboard_dir says where TensorBoard's files go",
    **dict.fromkeys(
        ("print_args", "disable_color_printing", "disable_tqdm"),
        "log_level says how much is told; colours end by themselves outside a terminal",
    ),
    # More of nanochat
    "run": "tracker_run_name names the run for trackers, and run_dir its folder",
    "device_type": "device is cuda, mps or cpu, and found by itself",
    "target_flops": "steps says how long; `lumina suggest` computes them",
    "target_param_data_ratio": "steps says how long; `lumina suggest` computes them",
    "scalar_lr": _MUON,
    "eval_tokens": "eval_batches is how many batches are evaluated",
    "init_lr_frac": "learning_rate is the peak, and warmup_steps begins below it",
    **dict.fromkeys(
        ("core_metric_every", "core_metric_max_per_task"),
        "eval_every_n_batches measures loss; other tools measure tasks on a folder of "
        "`lumina export`",
    ),
    **dict.fromkeys(("mmlu_epochs", "gsm8k_epochs"), _SOURCES),
    "load_optimizer": "branch_from takes a checkpoint with its optimizer",
}
"""Name -> the options that do it here, or that there is none."""
