"""Environment variables that change what Lumina does, in one table.

Settings of a run are options, not variables. A variable says where this machine keeps
things, how processes are started, and what is secret; options win where both exist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """One environment variable.

    Attributes:
        name: of the variable.
        subject: what it is about.
        meaning: what its value does.
        reader: "lumina", or the library that reads it.
        secret: its value is never shown.
    """

    name: str
    subject: str
    meaning: str
    reader: str = "lumina"
    secret: bool = False


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "LUMINA_CACHE", "data folders",
        "where tokenised data, lists of runs and measurements are kept; default: "
        "~/.cache/lumina",
    ),
    Variable(
        "LUMINA_EXPERIENCE", "data folders",
        "the file that remembers runs, or off, where --experience names none; default: "
        "experience.sqlite in LUMINA_CACHE",
    ),
    Variable(
        "HF_HOME", "data folders",
        "where data sets and models of the Hugging Face hub are kept",
        "huggingface_hub",
    ),
    Variable(
        "TIKTOKEN_CACHE_DIR", "data folders",
        "where the rank files of tiktoken's tokenizers are looked for",
    ),
    Variable("DATA_GYM_CACHE_DIR", "data folders", "the same, looked at second"),
    Variable(
        "HF_TOKEN", "tokens", "for data sets and models of the hub that are not public",
        "huggingface_hub", secret=True,
    ),
    Variable(
        "WANDB_API_KEY", "tokens", "for --trackers wandb", "wandb", secret=True
    ),
    Variable(
        "MLFLOW_TRACKING_URI", "trackers",
        "MLflow's server, where --mlflow-uri names none",
    ),
    Variable(
        "WANDB_MODE", "trackers",
        "online or offline, where --wandb-mode names neither", "wandb",
    ),
    Variable("HF_HUB_OFFLINE", "network", "1: the hub is not asked", "huggingface_hub"),
    Variable("HF_DATASETS_OFFLINE", "network", "1: the same"),
    Variable("HTTPS_PROXY", "network", "the proxy on the way to the hub"),
    Variable("HTTP_PROXY", "network", "the same for addresses without encryption"),
    Variable("ALL_PROXY", "network", "the same for both"),
    Variable(
        "CC", "kernels",
        "the C compiler of Triton's kernels; without one, blocks are not compiled",
    ),
    Variable(
        "CXX", "kernels", "the C++ compiler of kernels for the processor and of exports"
    ),
    Variable(
        "TORCHINDUCTOR_CACHE_DIR", "kernels", "where compiled kernels are kept", "torch"
    ),
    Variable(
        "TRITON_CACHE_DIR", "kernels", "where Triton's kernels are kept", "triton"
    ),
    Variable(
        "HYDRA_DISABLE_FUSED_SWIGLU_BWD", "kernels",
        "1: with --triton-kernels, the gradient of SwiGLU is computed by PyTorch",
    ),
    Variable(
        "HYDRA_DISABLE_FUSED_RMS_NORM_BWD", "kernels", "1: the same for RMSNorm"
    ),
    Variable(
        "HYDRA_DISABLE_FUSED_QK_NORM_BWD", "kernels",
        "1: the same for the norms of queries and keys",
    ),
    Variable(
        "CUBLAS_WORKSPACE_CONFIG", "kernels",
        "cuBLAS's working memory; --deterministic sets :4096:8 where it is not set",
    ),
    Variable(
        "OMP_NUM_THREADS", "processor",
        "threads of the processor's kernels; not set, Lumina chooses",
    ),
    Variable(
        "TOKENIZERS_PARALLELISM", "processor",
        "threads of tokenizers; Lumina sets it while it tokenises with its own",
    ),
    Variable("RAYON_NUM_THREADS", "processor", "how many threads of tokenizers"),
    Variable(
        "CUDA_VISIBLE_DEVICES", "devices",
        "the GPUs that a process sees; --cuda-ids chooses among them",
    ),
    Variable(
        "CUDA_MODULE_LOADING", "devices",
        "when CUDA loads kernels; LAZY, as torch sets it, unless it is set", "torch",
    ),
    Variable(
        "PYTORCH_ALLOC_CONF", "devices", "how torch allocates GPU memory", "torch"
    ),
    Variable(
        "AIOS_DDP_SPAWN", "processes",
        "1: DDP with a process for each GPU, or with --nproc of them",
    ),
    Variable(
        "GLOO_SOCKET_IFNAME", "processes",
        "the network interface of gloo; with --num-nodes that of --master-addr",
        "torch",
    ),
    Variable(
        "NCCL_SOCKET_IFNAME", "processes", "the same of NCCL", "nccl",
    ),
    Variable("WORLD_SIZE", "processes", "how many there are; set by torchrun"),
    Variable("RANK", "processes", "which of them this is; set by torchrun"),
    Variable("LOCAL_RANK", "processes", "which of this machine's; set by torchrun"),
    Variable(
        "LOCAL_WORLD_SIZE", "processes", "how many on this machine; set by torchrun"
    ),
    Variable("MASTER_ADDR", "processes", "where they meet; set by torchrun"),
    Variable("MASTER_PORT", "processes", "the port there; set by torchrun"),
    Variable(
        "TORCHELASTIC_RUN_ID", "processes", "set by torchrun, which sets threads too"
    ),
    Variable(
        "TORCHELASTIC_RESTART_COUNT",
        "processes",
        "set by torchrun: how often it has started the processes again",
    ),
    Variable("NCCL_DEBUG", "processes", "what NCCL writes, such as INFO", "nccl"),
    Variable("NO_COLOR", "console", "set: no colours"),
)  # fmt: skip
"""Every variable that Lumina reads, and those of libraries that matter most."""
