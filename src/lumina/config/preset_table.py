"""The presets as data: shapes from the two design documents, and how each is trained.

Rows of the first document keep its dimensions; the sizes it names do not follow from
them, so both are recorded and the true counts are printed. Rows "l2:" and "b30" have
dimensions chosen so that the weights used for one token meet the second document's
active figure within 5% (8 experts, two chosen, head tied to the embedding). Rows
"dense_" are plain transformers of the common sizes; their total is within 5% of the
name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the tables.

    Attributes:
        experts: experts in every layer, two chosen per token; 0: dense.
        batch: sequences per optimizer step, over all devices.
        rate: peak learning rate.
        warmup: share of the run spent on warm-up; None: by the length of the run.
        documented: the size, active or total, the document gives, as it gives it.
        blocks: sparse blocks beside the experts: "mod", "mor".
        width: SwiGLU width where it is not 8/3 hidden rounded up to 128.
        decay: weight decay.
        bf16: the memory of all weights in bf16, as the document gives it.
        hardware: what the document names to train it on.
        profiles: those of that hardware that can be planned for, by their names.
        adaptive: what the document says of adaptive training at this size.
    """

    name: str
    source: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    context: int
    experts: int
    batch: int
    rate: float
    warmup: float | None
    documented: str
    use: str
    blocks: tuple[str, ...] = ()
    width: int | None = None
    vocabulary: int = 50304
    note: str = ""
    decay: float = 0.01
    bf16: str = ""
    hardware: str = ""
    profiles: tuple[str, ...] = ()
    adaptive: str = ""


# debug's rate is above the document's 5e-4 for small models. In 80 steps on 0.8 MB of
# Python source (one seed, a CPU), the loss fell to 5.71 at 1e-3 and 5.04 at 4e-3; 1e-2
# was behind by step 30. 3e-3 keeps some distance from that.
# The documents switch gradient checkpointing on everywhere. Here it is left open and
# used where memory asks for it: it costs a second forward and changes no result.
L1 = (
    Row("debug", "L1", 128, 2, 2, 1, 256, 4, 16, 3e-3, 0.05,
        "500K", "development", vocabulary=2048,
        note="a vocabulary of 2,048: an embedding of 50,304 alone is 6.4M",
        bf16="~10 MB"),
    Row("m70_memory", "L1", 768, 12, 12, 4, 1024, 8, 128, 5e-4, 0.05,
        "70M", "low memory",
        bf16="~280 MB"),
    Row("m120_speed", "L1", 768, 16, 12, 4, 1024, 8, 256, 5e-4, 0.05,
        "120M", "real time",
        bf16="~480 MB"),
    Row("b1", "L1", 1024, 12, 16, 4, 2048, 8, 128, 3e-4, 0.05,
        "1B", "limited resources",
        bf16="~2 GB"),
    Row("b3_inference", "L1", 2560, 24, 20, 10, 2048, 16, 256, 2e-4, 0.1,
        "3B", "production inference",
        bf16="~6 GB"),
    Row("b6_quality", "L1", 3200, 32, 25, 5, 4096, 32, 128, 2e-4, 0.1,
        "6B", "quality generation",
        note="5 key/value heads: the document's 10 do not divide its 25 heads",
        bf16="~12 GB"),
    Row("b7", "L1", 2048, 22, 16, 8, 4096, 16, 256, 2e-4, 0.1, "7B", "general",
        bf16="~14 GB"),
    Row("b14", "L1", 2560, 28, 20, 10, 4096, 32, 256, 2e-4, 0.1,
        "14B", "advanced",
        bf16="~28 GB"),
    Row("b50", "L1", 5120, 40, 40, 10, 128000, 64, 32, 1e-4, 0.15,
        "50B", "large research",
        bf16="~100 GB"),
    Row("b100", "L1", 7168, 48, 56, 14, 200000, 96, 32, 6e-5, 0.2,
        "100B", "frontier",
        bf16="~200 GB"),
    Row("b200", "L1", 8192, 56, 64, 16, 1000000, 128, 8, 4e-5, 0.2,
        "200B", "enterprise",
        bf16="~400 GB"),
    Row("b300", "L1", 9216, 64, 72, 18, 204800, 144, 32, 3e-5, 0.2,
        "300B", "research",
        bf16="~600 GB"),
)  # fmt: skip

L2 = (
    Row("l2:debug", "L2", 64, 6, 2, 1, 256, 8, 16, 1e-3, 0.05,
        "~500K active, ~4M total", "development, testing",
        width=128, vocabulary=2048,
        hardware="any",
        adaptive="minimal adaptive features"),
    Row("debug_200m", "L2", 768, 26, 12, 4, 1024, 0, 128, 5e-4, 0.05,
        "~200M active, ~6B total", "architecture testing", blocks=("mod",),
        note="the document's 32x Mixture of Depths adds no weights: total is active",
        hardware="T4, MPS, CPU", profiles=("t4", "m1"),
        adaptive="adaptive routing, MoD"),
    Row("l2:b1", "L2", 1536, 21, 12, 4, 2048, 8, 256, 3e-4, 0.05,
        "~1B active, ~8B total", "small experiments",
        hardware="3090, M1 Max, A10", profiles=("rtx-3090", "m1-max", "a10"),
        adaptive="full adaptive features"),
    Row("l2:b7", "L2", 3072, 40, 24, 6, 4096, 8, 256, 2e-4, 0.1,
        "~7B active, ~56B total", "general",
        hardware="A100 40, M2 Ultra, 4090",
        profiles=("a100-40gb", "m2-ultra", "rtx-4090"),
        adaptive="meta-learning, expert management"),
    Row("l2:b14", "L2", 4096, 44, 32, 8, 4096, 8, 512, 1e-4, 0.15,
        "~14B active, ~112B total", "high performance",
        hardware="A100 80, several A10", profiles=("a100-80gb", "a10"),
        adaptive="recovery, memory"),
    Row("b30", "L2", 5120, 62, 40, 10, 4096, 8, 512, 1e-4, 0.15,
        "~30B active, ~240B total", "research",
        hardware="several A100, H100", profiles=("a100-80gb", "h100-80gb"),
        adaptive="full suite, multi-node"),
    Row("l2:b50", "L2", 6144, 72, 48, 12, 4096, 8, 1024, 1e-4, 0.15,
        "~50B active, ~400B total", "enterprise",
        hardware="several H100", profiles=("h100-80gb",),
        adaptive="distributed"),
    Row("l2:b100", "L2", 8192, 80, 64, 16, 8192, 8, 512, 6e-5, 0.2,
        "~100B active, ~800B total", "cutting edge",
        hardware="large H100 cluster", profiles=("h100-80gb",),
        adaptive="cluster-wide"),
    Row("l2:b200", "L2", 10240, 102, 80, 20, 8192, 8, 1024, 4e-5, 0.2,
        "~200B active, ~1.6T total", "frontier",
        hardware="massive H100 cluster", profiles=("h100-80gb",),
        adaptive="meta-learning over nodes"),
    Row("l2:b300", "L2", 12288, 108, 96, 24, 8192, 8, 1024, 3e-5, 0.2,
        "~300B active, ~2.4T total", "ultra scale",
        hardware="ultra-large cluster", profiles=("h100-80gb",),
        adaptive="global"),
)  # fmt: skip

HYDRA = (
    Row("100M", "H", 768, 10, 12, 4, 1024, 0, 128, 5e-4, 0.05,
        "100M", "sparse blocks, smallest", blocks=("mod", "mor")),
    Row("250M", "H", 1024, 17, 16, 8, 1024, 0, 256, 5e-4, 0.05,
        "250M", "sparse blocks, small", blocks=("mod", "mor")),
    Row("500M", "H", 1280, 24, 20, 10, 2048, 0, 256, 4e-4, 0.05,
        "500M", "sparse blocks, medium", blocks=("mod", "mor")),
    Row("1B", "H", 2048, 20, 32, 8, 2048, 0, 256, 3e-4, 0.05,
        "1B", "sparse blocks, large", blocks=("mod", "mor")),
)  # fmt: skip

# Rate, tokens per batch (0.5M from 125M on, 1M from 1B on, 2M at 8B) and weight decay
# follow GPT-3 (Brown et al. 2020, arXiv:2005.14165, table 2.1 and appendix B). Its
# smallest model has 125M parameters; the two below that get a somewhat higher rate.
DENSE = (
    Row("dense_10m", "D", 256, 10, 4, 2, 512, 0, 64, 1e-3, None,
        "10M", "first experiments, a laptop", vocabulary=8192, decay=0.1),
    Row("dense_30m", "D", 384, 15, 6, 2, 1024, 0, 128, 8e-4, None,
        "30M", "experiments on one GPU", vocabulary=16384, decay=0.1),
    Row("dense_125m", "D", 768, 12, 12, 12, 2048, 0, 256, 6e-4, None,
        "125M", "GPT-2 small's shape", decay=0.1),
    Row("dense_350m", "D", 1024, 24, 16, 16, 2048, 0, 256, 3e-4, None,
        "350M", "GPT-2 medium's shape", decay=0.1),
    Row("dense_1b", "D", 2048, 20, 32, 8, 2048, 0, 512, 2e-4, None,
        "1B", "one large GPU", decay=0.1),
    Row("dense_3b", "D", 3072, 28, 24, 8, 4096, 0, 256, 1.6e-4, None,
        "3B", "several GPUs", decay=0.1),
    Row("dense_8b", "D", 4096, 36, 32, 8, 4096, 0, 512, 1.2e-4, None,
        "8B", "many GPUs", width=14336, decay=0.1),
)  # fmt: skip

ROWS = L1 + L2 + HYDRA + DENSE
