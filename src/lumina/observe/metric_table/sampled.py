"""What is measured on request, in some steps."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

TITLE = "On request"

TIMED = "every `step_times_every` steps"
MOVED = "every `weight_changes_every` steps"
HEADS = "every `attention_stats_every` steps"
PROFILED = "every `layer_profile_every` steps"

METRICS = (
    Metric(
        "forward_time",
        "forward passes of the step's micro-batches, with moving them to the device",
        "seconds",
        "",
        TIMED,
        of_a_rank=True,
    ),
    Metric(
        "backward_time",
        "backward passes of the step's micro-batches, with the "
        "exchange of gradients that overlaps them",
        "seconds",
        "",
        TIMED,
        of_a_rank=True,
    ),
    Metric(
        "optimizer_time",
        "norm and clipping of the gradients, the update, and what follows it",
        "seconds",
        "",
        TIMED,
        of_a_rank=True,
    ),
    Metric(
        "group.NAME.weight_norm",
        "norm of those tensors before the update",
        "",
        "sqrt(sum(w^2))",
        MOVED,
    ),
    Metric(
        "group.NAME.update_ratio",
        "how far the update moves them, relative to their "
        "size; 0.001 is usual for AdamW",
        "",
        "|w_after - w_before| / |w_before|",
        MOVED,
    ),
    Metric(
        "layers.gradient_norm",
        "norm of each layer's gradient, before clipping",
        "",
        "sqrt(sum(g^2))",
        MOVED,
    ),
    Metric(
        "layers.update_ratio",
        "how far the update moves each layer",
        "",
        "|w_after - w_before| / |w_before|",
        MOVED,
    ),
    Metric(
        "average_attention_entropy",
        "mean entropy of the weights that a query gives "
        "to its keys; queries that see one key do not count",
        "bits",
        "mean(-sum(p x log2(p)))",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "attention_sparsity",
        "share of the visible keys that get less than a tenth of an even weight",
        "",
        "mean(count(p < 0.1 / n) / n)",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "head_specialization",
        "how far the heads of a layer are from their mean: "
        "Jensen-Shannon divergence, 1 where no two heads look at the same key",
        "",
        "(H(mean(p)) - mean(H(p))) / log2(heads)",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "local_attention_ratio",
        "weight on keys at most 16 positions back",
        "",
        "",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "global_attention_ratio",
        "weight on keys further back",
        "",
        "1 - local_attention_ratio",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "collapsed_heads",
        "heads whose entropy is below 0.05 of that of even "
        "weights; the event `attention_heads` names them",
        "heads",
        "",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "redundant_heads",
        "heads whose weights have a cosine of 0.98 or more with "
        "those of an earlier head of their layer",
        "heads",
        "",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "layers.average_attention_entropy",
        "the same by layer",
        "bits",
        "",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "layers.attention_sparsity", "the same by layer", "", "", HEADS, of_a_rank=True
    ),
    Metric(
        "layers.head_specialization", "the same by layer", "", "", HEADS, of_a_rank=True
    ),
    Metric(
        "layers.local_attention_ratio",
        "the same by layer",
        "",
        "",
        HEADS,
        of_a_rank=True,
    ),
    Metric(
        "layers.forward_time",
        "forward pass of each layer, all micro-batches of the step together",
        "seconds",
        "",
        PROFILED,
        of_a_rank=True,
    ),
    Metric(
        "layers.backward_time",
        "its way back, with what checkpointing computes again",
        "seconds",
        "",
        PROFILED,
        of_a_rank=True,
    ),
    Metric(
        "layers.memory_allocated",
        "what each layer keeps for its way back, all "
        "micro-batches together; null for compiled layers on a CPU",
        "bytes",
        "",
        PROFILED,
        of_a_rank=True,
    ),
    Metric(
        "layers.flops",
        "operations of each layer, both ways, by the count that MFU uses",
        "FLOPs",
        "",
        PROFILED,
        of_a_rank=True,
    ),
    Metric(
        "layers.bottleneck_score",
        "how far each layer is behind the one that does most in a second, from 0 to 1",
        "",
        "1 - (flops / time) / max(flops / time)",
        PROFILED,
        of_a_rank=True,
    ),
)
