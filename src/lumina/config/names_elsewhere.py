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
    "context_parallel_degree": _NOT_YET,
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
}
"""Name -> the options that do it here, or that there is none."""
