"""Progress, loss, accuracy, learning rate and gradients."""

from __future__ import annotations

from lumina.observe.metric_table.metric import Metric

LOGGED = "every `log_every_n_batches` steps"
FULL = "every step, with `--metrics full`"
EVALUATED = "steps with an evaluation"

TITLE = "Loss, rate and gradients"

METRICS = (
    Metric("step", "optimizer steps done, this one included", "steps"),
    Metric("tokens", "input tokens of all steps so far, padding included", "tokens"),
    Metric(
        "epoch",
        "passes over the data so far; null where their length is not known",
        "passes",
    ),
    Metric("loss_tokens", "tokens of this step that bear loss", "tokens"),
    Metric(
        "loss",
        "mean cross entropy over the step's tokens that bear loss, without further "
        "losses, before this step's update; null in a step without such tokens",
        "nats per token",
        "sum(weight x cross entropy) / sum(weight), over all processes",
        also=("train_loss", "raw_loss"),
    ),
    Metric("perplexity", "the same as a number of choices", "", "exp(loss)"),
    Metric(
        "token_accuracy",
        "share of the loss-bearing tokens for which the label had the highest score",
        "",
        "right tokens / tokens",
        FULL,
    ),
    Metric(
        "sequence_accuracy",
        "share of the documents in which every loss-bearing token is right; the part "
        "of a document that is in one row counts as a document",
        "",
        "documents right everywhere / documents with such tokens",
        FULL,
    ),
    Metric(
        "learning_rate",
        "the learning rate of the step: that of the schedule, times what a control set",
    ),
    Metric(
        "effective_learning_rate",
        "the learning rate by which the gradient counts as it is before clipping; 0 in "
        "a skipped step",
        "",
        "learning_rate x min(1, max_grad_norm / grad_norm)",
    ),
    Metric(
        "grad_norm",
        "Euclidean norm of the whole gradient, before clipping",
        "",
        "sqrt(sum(g^2))",
        also=("gradient_norm",),
    ),
    Metric(
        "gradient_variance",
        "variance over all elements of the gradient, before clipping",
        "",
        "mean(g^2) - mean(g)^2",
        f"{LOGGED}, with `--metrics full`; null in a step without loss-bearing tokens",
    ),
    Metric(
        "group.NAME.gradient_norm",
        "norm of the gradient of all tensors of a role "
        "(embedding, head, matrix, norm, bias, expert, router), before clipping",
        "",
        "sqrt(sum(g^2))",
        f"{FULL}, or every `weight_changes_every` steps; not in a step without "
        "loss-bearing tokens",
    ),
    Metric(
        "group.NAME.update_rms",
        "how far the step moves an element of those tensors: root mean square over at "
        "most 65,536 elements of each, at even distances",
        "",
        "sqrt(mean((w_after - w_before)^2))",
        f"{LOGGED}, with `--metrics full`; not in a step without loss-bearing tokens, "
        "with `--optimizer-in-backward`, or where masters live beside the device",
    ),
    Metric(
        "log_z",
        "mean over the loss-bearing tokens of the logarithm of the normaliser of the "
        "softmax over the vocabulary",
        "nats",
        "mean(log(sum(exp(logits))))",
        f"{FULL}; null where the model makes no such softmax",
    ),
    Metric(
        "largest_attention_logit",
        "the largest attention logit of any head: with `--qk-clip` in the step, "
        "otherwise in the first row of every process",
        "",
        "max(q k / sqrt(head_dim))",
        "every step with `--qk-clip` (null in one without loss-bearing tokens), "
        "otherwise every `attention_logits_every` steps",
    ),
    Metric(
        "clipped_heads",
        "heads of queries with a largest logit above `--qk-clip`",
        "heads",
        "",
        "with `--qk-clip`; null in a step without loss-bearing tokens",
    ),
    Metric("clipped_gradients", "steps so far with a clipped gradient", "steps"),
    Metric(
        "skipped",
        "steps so far that changed nothing, for their gradient was not finite",
        "steps",
    ),
    Metric(
        "training_health_score",
        "how healthy the run is: 100, less the penalty of every health check that has "
        "raised an alarm in the last 50 steps",
        "",
        "max(0, 100 - sum(penalties))",
        "every step, with `health_checks`",
        of_a_rank=True,
    ),
    Metric("time", "when the row was written", "Unix seconds", of_a_rank=True),
    Metric(
        "eval_loss", "mean loss on the held-out data", "nats per token", "", EVALUATED
    ),
    Metric(
        "eval_accuracy",
        "share of the held-out tokens for which the label had the highest score",
        when=EVALUATED,
    ),
    Metric(
        "base_distance",
        "how far the matrices are from those that training began with, relative to "
        "their size",
        "",
        "|W - W0| / |W0|",
        f"{EVALUATED}, with `preserve_base_knowledge`",
    ),
    Metric(
        "base_divergence",
        "mean divergence of the scores from those of the base model, on the rows of "
        "base text",
        "nats per token",
        "KL(softmax(base / T) || softmax(scores / T))",
        "with `preservation_method outputs`; null in a step without such a row",
    ),
    Metric(
        "vocabulary_seen",
        "share of the vocabulary that the run has seen so far",
        when=f"{EVALUATED}, with `watch_vocabulary`",
    ),
    Metric(
        "vocabulary_rare",
        "share of the vocabulary that was seen, but fewer than 10 times",
        when=f"{EVALUATED}, with `watch_vocabulary`",
    ),
    Metric(
        "source.NAME.vocabulary_seen",
        "share of the vocabulary seen in rows of that source",
        when=f"{EVALUATED}, with `watch_vocabulary`",
    ),
    Metric(
        "source.NAME.vocabulary_rare",
        "share seen in rows of that source, but fewer than 10 times",
        when=f"{EVALUATED}, with `watch_vocabulary`",
    ),
    Metric(
        "source.NAME.loss", "mean loss of one source of a mixture", "nats per token"
    ),
    Metric("source.NAME.tokens", "share of the loss-bearing tokens from that source"),
    Metric("source.NAME.weight", "share of the rows that come from that source"),
    Metric(
        "source.NAME.eval_loss",
        "held-out loss of that source",
        "nats per token",
        "",
        EVALUATED,
    ),
    Metric(
        "source.NAME.eval_accuracy",
        "held-out accuracy of that source",
        "",
        "",
        EVALUATED,
    ),
    Metric(
        "source.NAME.eval_change",
        "change of its held-out loss since the run or the phase began",
        "nats per token",
        "",
        EVALUATED,
    ),
    Metric("task.NAME.loss", "mean loss of one task", "nats per token"),
    Metric("task.NAME.tokens", "share of the loss-bearing tokens of that task"),
    Metric("task.NAME.weight", "weight of that task's loss"),
    Metric(
        "task.NAME.eval_loss",
        "held-out loss of that task",
        "nats per token",
        "",
        EVALUATED,
    ),
)
