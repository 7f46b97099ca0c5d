"""How the heads of attention spread their weight, on a few rows beside the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from lumina.ops.attention.beyond import NOTHING, Beyond
from lumina.ops.attention.dispatch import observed
from lumina.ops.attention.masks import document_mask
from lumina.train.watch import Finding, Look, register_look

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.data.stream import StepBatches

ROWS, QUERIES = 2, 256
"""At most this many rows of the step, and this many queries of each, are looked at."""

SPARSE = 0.1
"""A key counts as ignored with less than this share of an even weight."""

LOCAL = 16
"""Keys at most this far back are local, the query's own position among them."""

COLLAPSED = 0.05
"""A head has collapsed with less than this share of the greatest possible entropy."""

REDUNDANT = 0.98
"""Heads of a layer whose weights have at least this cosine do the same."""


@register_look
class AttentionLook(Look):
    """Statistics of the attention of every layer, from a forward pass of their own.

    The pass sees the first rows of this rank's step, without dropout and gradients, in
    uncompiled code, and leaves no trace in the model.
    """

    name = "attention"
    apart: ClassVar[bool] = True

    def __init__(self, program: Program, batches: StepBatches) -> None:
        super().__init__(program, batches)
        self._found: list[HeadStatistics] = []
        if batches.micro_batches:
            self._look(program, batches)

    @torch.no_grad()
    def _look(self, program: Program, batches: StepBatches) -> None:
        batch = batches.micro_batches[0]
        batch = batch.first(min(ROWS, len(batch.input_ids))).to(program.device)
        spec = program.plan.spec
        seen = visible(batch.document_ids, spec.window_size, spec.beyond_window)

        def note(q_bshd: Tensor, k_bskd: Tensor) -> None:
            self._found.append(statistics(q_bshd, k_bskd, seen))

        model = program.model
        training = model.training
        model.eval()
        try:
            with torch.compiler.set_stance("force_eager"), observed(note):
                model(batch)
        finally:
            model.train(training)
            program.way.after_evaluation()

    def values(self) -> Tensor | None:
        """The statistics of all layers, one after the other."""
        if not self._found:
            return None
        return torch.cat([torch.cat([x.flatten() for x in one]) for one in self._found])

    def row(self, values: Sequence[float]) -> dict[str, Any]:
        """Means over all layers and heads, and some of them by layer."""
        self._layers = _by_layer(values, self._found)
        layers = self._layers
        if not layers:
            return {}
        row: dict[str, Any] = {}
        for key, name in NAMES.items():
            each = [_mean(layer[key]) for layer in layers]
            row[name] = _mean(each)
            row[f"layers.{name}"] = each
        row["global_attention_ratio"] = 1 - row["local_attention_ratio"]
        row["collapsed_heads"] = sum(len(_collapsed(layer)) for layer in layers)
        row["redundant_heads"] = sum(len(_redundant(layer)) for layer in layers)
        return row

    def findings(self) -> list[Finding]:
        """Which heads have collapsed, and which do what another one does."""
        collapsed = {n: h for n, x in enumerate(self._layers) if (h := _collapsed(x))}
        redundant = {n: h for n, x in enumerate(self._layers) if (h := _redundant(x))}
        if not collapsed and not redundant:
            return []
        counts = [sum(map(len, found.values())) for found in (collapsed, redundant)]
        text = (
            f"{counts[0]} heads of attention look at one token alone, and {counts[1]} "
            "do what an earlier head of their layer does"
        )
        data = {
            name: {str(layer): heads for layer, heads in found.items()}
            for name, found in (("collapsed", collapsed), ("redundant", redundant))
        }
        return [Finding("attention_heads", text, data)]


class HeadStatistics(tuple[Tensor, ...]):
    """Of one layer, in the order of `FIELDS`, each [H] but the last two."""


FIELDS = ("entropy", "relative", "sparsity", "local", "alike", "special")

NAMES = {
    "entropy": "average_attention_entropy",
    "sparsity": "attention_sparsity",
    "special": "head_specialization",
    "local": "local_attention_ratio",
}
"""Field -> key of a row."""


def visible(
    document_ids: Tensor, window: int, beyond: Beyond = NOTHING
) -> tuple[Tensor, Tensor]:
    """The queries that are looked at, and what each of them sees.

    Args:
        document_ids: [B, S] int64, -1 for padding.
        window: as in `ModelSpec`.
        beyond: what stays visible beyond the window.

    Returns:
        [Q] positions, evenly spread; [B, Q, S] bool, False throughout for queries that
        are padding or see only themselves, which do not count.
    """
    length = document_ids.shape[1]
    count = min(QUERIES, length)
    places = torch.linspace(0, length - 1, count, device=document_ids.device).long()
    mask = document_mask(document_ids, window, beyond)[:, 0, places]
    counts = (document_ids[:, places] >= 0) & (mask.sum(-1) > 1)
    return places, mask & counts[..., None]


def statistics(
    q_bshd: Tensor, k_bskd: Tensor, seen: tuple[Tensor, Tensor]
) -> HeadStatistics:
    """Statistics of the heads of one layer.

    Args:
        q_bshd: [B, S, H, head_dim] queries as attention takes them.
        k_bskd: [B, S, K, head_dim] keys.
        seen: of `visible`.

    Returns:
        Means over the queries: "entropy" [H] in bits; "relative" [H], the entropy as
        a share of that of even weights; "sparsity" [H]; "local" [H]; "alike" [H, H],
        the cosine of the weights of each two heads; "special" [1], the divergence of
        the heads from their mean (Jensen-Shannon) as a share of its greatest value.
    """
    places, mask_bqs = seen
    heads, size = q_bshd.shape[2:]
    group = heads // k_bskd.shape[2]
    keys = torch.arange(k_bskd.shape[1], device=places.device)
    near_qs = (places[:, None] - keys[None, :]).abs() <= LOCAL
    sums = q_bshd.new_zeros(4, heads, dtype=torch.float32)
    alike = sums.new_zeros(heads, heads)
    special, queries = sums.new_zeros(()), sums.new_zeros(())
    for q_shd, k_skd, mask_qs in zip(q_bshd, k_bskd, mask_bqs, strict=True):
        q_hqd = q_shd[places].transpose(0, 1).float()
        k_hsd = k_skd.transpose(0, 1).float().repeat_interleave(group, dim=0)
        scores = q_hqd @ k_hsd.transpose(-1, -2) / math.sqrt(size)
        scores = scores.masked_fill(~mask_qs, -math.inf)
        weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # no key: no weight
        count_q = mask_qs.sum(-1).clamp(min=1)
        entropy_hq = _bits(weights)
        ignored = (weights < SPARSE / count_q[:, None]) & mask_qs
        sums += torch.stack(
            [
                entropy_hq.sum(-1),
                (entropy_hq / count_q.clamp(min=2).log2()).sum(-1),
                (ignored.sum(-1) / count_q).sum(-1),
                (weights * near_qs).sum((-1, -2)),
            ]
        )
        flat = weights.flatten(1)
        alike += flat @ flat.t()
        special += (_bits(weights.mean(0)) - entropy_hq.mean(0)).sum()
        queries += mask_qs.any(-1).sum()
    queries = queries.clamp(min=1)
    sizes = alike.diagonal().clamp(min=1e-12).sqrt()
    entropy, relative, sparsity, local = (sums / queries).unbind()
    return HeadStatistics(
        (
            entropy,
            relative,
            sparsity,
            local,
            alike / sizes[:, None] / sizes[None, :],
            (special / queries / max(math.log2(heads), 1.0)).reshape(1),
        )
    )


def _bits(weights: Tensor) -> Tensor:
    """Entropy over the last dimension, in bits."""
    nats: Tensor = -torch.special.xlogy(weights, weights).sum(-1)
    return nats / math.log(2)


def _by_layer(
    values: Sequence[float], found: Sequence[HeadStatistics]
) -> list[dict[str, list[float]]]:
    """The statistics of each layer by `FIELDS`, from the flat vector of `values`."""
    layers, begin = [], 0
    for one in found:
        layer = {}
        for field, tensor in zip(FIELDS, one, strict=True):
            layer[field] = list(values[begin : begin + tensor.numel()])
            begin += tensor.numel()
        layers.append(layer)
    return layers


def _collapsed(layer: dict[str, list[float]]) -> list[int]:
    """Heads that give nearly all of their weight to one key."""
    return [head for head, x in enumerate(layer["relative"]) if x < COLLAPSED]


def _redundant(layer: dict[str, list[float]]) -> list[int]:
    """Heads that do what an earlier one of the layer does."""
    heads = len(layer["entropy"])
    return [
        head
        for head in range(heads)
        if any(
            layer["alike"][head * heads + other] >= REDUNDANT for other in range(head)
        )
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
