"""The routed feed-forward: a float32 router, SwiGLU experts, and what it reports.

By default Mixtral's semantics: softmax over all experts, then the top k, renormalised;
or DeepSeek-V3's (arXiv 2412.19437): sigmoid scores, a scale, shared experts. The
balance loss is Switch Transformer's (arXiv 2101.03961) with the *global* expert load of
the step before in place of this micro-batch's, so that no split into micro-batches or
ranks changes it; the z-loss is ST-MoE's (arXiv 2202.08906); the loss-free selection
bias is that of arXiv 2408.15664. What may change while a model trains (temperature,
jitter, expert dropout, capacity) is read from scalars on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lumina.model.expert_buffers import buffers
from lumina.model.initial import initial_value
from lumina.model.layers import FeedForward
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.ops.low_bits.product import Weight, as_tensor
from lumina.ops.moe import bounded, grouped
from lumina.ops.moe.parted import Parted
from lumina.ops.moe.routing import Routing
from lumina.ops.router.dispatch import router_linear

if TYPE_CHECKING:
    from lumina.model.adapters.layer import Adapters

HIDDEN = 1e4
"""Taken off the rank of an expert that dropout hides: below every other one."""

TINY = 1e-20
"""Keeps sums of scores that have all vanished from dividing by zero."""


class _OnlyLast(torch.autograd.Function):
    """The tensor itself, whose gradient is zero but for its last rows."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: int) -> Tensor:
        ctx.rows = rows
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        last = gradient.new_zeros(gradient.shape)
        last[-ctx.rows :] = gradient[-ctx.rows :]
        return last, None


def only_last(weight: Tensor, rows: int) -> Tensor:
    """`weight`, of which only the last `rows` rows train; all of them for 0."""
    if not rows:
        return weight
    trained: Tensor = _OnlyLast.apply(weight, rows)
    return trained


class Router(nn.Module):
    """Scores every expert for every token, in float32 whatever the model's type."""

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, x_td: Tensor, trained: int = 0) -> Tensor:
        """Logits [T, E] of tokens [T, D]; `trained` as in `only_last`."""
        return router_linear(x_td, only_last(self.weight, trained))


class MoeFeedForward(nn.Module):
    """Top-k routed SwiGLU experts in place of one MLP.

    Args:
        spec: a shape with `spec.moe`.
        layer_index: the block this layer sits in; it must be one of `spec.moe.layers`.

    In training, `spec.moe.dispatch == "capacity"` drops what exceeds an expert's
    places. Evaluation and generation keep every token, so there a sequence's result
    does not depend on the rest of the batch.

    Attributes:
        parted: how its experts are divided over ranks; None: all of them are here.
            Otherwise `gate_up` and `down` are DTensors, of which this rank has the rows
            of its own experts.
    """

    routed = True
    load: Tensor
    selection_bias: Tensor | None
    temperature: Tensor
    jitter: Tensor
    expert_dropout: Tensor
    capacity_share: Tensor
    routing_bias: Tensor

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        assert spec.moe is not None and layer_index in spec.moe.layers
        self.spec = moe = spec.moe
        self.layer_index = layer_index
        experts, width = moe.num_experts, moe.intermediate_size
        self.router = Router(spec.hidden_size, experts)
        self.gate_up = nn.Parameter(torch.empty(experts, 2 * width, spec.hidden_size))
        self.down = nn.Parameter(torch.empty(experts, spec.hidden_size, width))
        for buffer in buffers(moe):
            value = torch.empty(buffer.shape, dtype=torch.float32)
            self.register_buffer(buffer.name, value, persistent=buffer.saved)
        if moe.bias_update_rate == 0:
            self.register_buffer("selection_bias", None)
        self.adapters: Adapters | None = None
        self.shared = FeedForward(spec, moe.shared_size) if moe.shared_size else None
        self.stored: dict[str, Any] = {}
        self.experts: Callable[..., Tensor] = grouped.routed_experts
        self.parted: Parted | None = None
        self.rounding: Callable[[Tensor], Tensor] | None = None
        self.reset_buffers()

    @torch.no_grad()
    def reset_buffers(self) -> None:
        """An even load, no bias, the rest as specified: how a router starts."""
        for buffer in buffers(self.spec):
            getattr(self, buffer.name).copy_(initial_value(buffer, seed=0))

    def route(self, x_td: Tensor) -> Routing:
        """Choose experts for tokens [T, D]."""
        moe = self.spec
        logits_te = self.router(x_td, moe.trained)
        factor = 1.0 / self.temperature
        if self.training:
            noise_te = 2.0 * torch.rand_like(logits_te) - 1.0
            factor = factor * (1.0 + self.jitter * noise_te)
        tempered_te = logits_te * factor + self.routing_bias
        if moe.score == "sigmoid":
            all_te = tempered_te.sigmoid()
            probs_te = all_te / all_te.sum(dim=-1, keepdim=True).clamp(min=TINY)
        else:
            all_te = probs_te = tempered_te.softmax(dim=-1)
        ids_tn = self._choose(all_te.detach())
        scores_tn = all_te.gather(1, ids_tn)
        if moe.normalise_top_k:
            chosen_tk = scores_tn[:, : moe.top_k]
            scores_tn = scores_tn / chosen_tk.sum(dim=-1, keepdim=True).clamp(min=TINY)
        if moe.score_scale != 1.0:
            scores_tn = scores_tn * moe.score_scale
        ids_tk, next_tj = ids_tn[:, : moe.top_k], ids_tn[:, moe.top_k :]
        scores_tk, next_scores_tj = scores_tn[:, : moe.top_k], scores_tn[:, moe.top_k :]
        return Routing(logits_te, probs_te, ids_tk, scores_tk, next_tj, next_scores_tj)

    def _choose(self, ranking_te: Tensor) -> Tensor:
        """The k best experts by rank [T, E], best first: [T, k].

        Where tokens are sent on, in training, as many follow, if there are so many.
        """
        if self.selection_bias is not None:
            # The bias moves the choice, never the weight of what was chosen.
            ranking_te = ranking_te + self.selection_bias
        if self.spec.groups > 1:
            ranking_te = _in_best_groups(ranking_te, self.spec)
        if self.training:
            hidden_te = torch.rand_like(ranking_te) < self.expert_dropout
            ranking_te = ranking_te - HIDDEN * hidden_te
        count = self.spec.top_k
        if self.training and self.spec.reserve:
            count = min(2 * count, self.spec.num_experts)
        return ranking_te.topk(count, dim=-1).indices

    def hold(self, leaf: str, stored: nn.Module) -> None:
        """Take matrices in few bits in place of the parameter `leaf`, gate_up or down.

        They are `lumina.model.stored.StoredWeight`; the parameter is then None.
        """
        self.register_parameter(leaf, None)
        self.add_module(f"stored_{leaf}", stored)
        self.stored[leaf] = stored

    def matrices(self, dtype: torch.dtype) -> tuple[Weight, Weight]:
        """Of all experts, gate and up [E, 2M, D] and down [E, D, M].

        They are tensors in `dtype`, or matrices in few bits.
        """
        gate_up, down = (self._matrix(leaf, dtype) for leaf in ("gate_up", "down"))
        return gate_up, down

    def _matrix(self, leaf: str, dtype: torch.dtype) -> Weight:
        if leaf in self.stored:
            return self.stored[leaf]  # type: ignore[no-any-return]
        whole = getattr(self, leaf)
        here = whole if self.parted is None else whole.to_local()
        weight = only_last(here, self.spec.trained).to(dtype)
        return weight if self.rounding is None else self.rounding(weight)

    def dense(self, matrix: str) -> Tensor:
        """`gate_up` [E, 2M, D] or `down` [E, D, M], without adapters."""
        if matrix in self.stored:
            return as_tensor(self.stored[matrix], torch.float32)
        whole: Tensor = getattr(self, matrix)
        return whole

    def bias_of(self, matrix: str) -> None:
        """Experts add no bias."""

    def _through(
        self, matrix: str, x: Tensor, weight: Weight, multiply: grouped.Multiply
    ) -> Tensor:
        """The product with the matrices of all experts, and what adapters add."""
        if self.adapters is None:
            return multiply(x, weight)

        def cast(rows: Tensor, matrices: Tensor) -> Tensor:
            return multiply(rows, matrices.to(rows.dtype))

        y: Tensor = self.adapters(
            x, self, lambda rows: multiply(rows, weight), matrix, cast
        )
        return y

    def forward(
        self, x_bsd: Tensor, valid_bs: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Route, run the experts, report.

        Args:
            x_bsd: [B, S, D] in the compute type.
            valid_bs: [B, S] bool, False for padding; all valid when absent. Padding is
                in no count and no loss, and takes no expert's place.

        Returns:
            [B, S, D] and this layer's sums: `moe.balance_loss` [], `moe.z_loss` []
            (differentiable), `moe.counts` and `moe.probability` [E], `moe.dropped` []
            and `moe.router` [3] (float32, no gradient); where tokens are sent on also
            `moe.rerouted` [].
        """
        rows, length, width = x_bsd.shape
        x_td = x_bsd.reshape(-1, width)
        routing = self.route(x_td)
        gate_up, down = self.matrices(x_td.dtype)
        dropped = sent = torch.zeros((), device=x_td.device)
        if self.training and self.spec.dispatch == "capacity":
            y_td, dropped, sent = bounded.routed_experts(
                x_td,
                gate_up,
                down,
                routing,
                bounded.Bounds(
                    self.spec.num_experts,
                    self.spec.capacity_factor,
                    self.spec.reserve,
                    self.capacity_share,
                ),
                valid_bs,
                rows,
                self._through,
                self.parted,
            )
        else:
            elsewhere = {} if self.parted is None else {"parted": self.parted}
            ids_tk, scores_tk = routing.ids_tk, routing.scores_tk
            y_td = self.experts(
                x_td, gate_up, down, ids_tk, scores_tk, self._through, **elsewhere
            )
        if self.shared is not None:
            y_td = y_td + self.shared(x_td)
        aux = self._sums(routing, valid_bs)
        aux["moe.dropped"] = dropped
        if self.spec.reserve:
            aux["moe.rerouted"] = sent
        return y_td.view(rows, length, width), aux

    def _sums(self, routing: Routing, valid_bs: Tensor | None) -> dict[str, Tensor]:
        """Balance loss, z-loss and counts over the tokens that are not padding."""
        probs_te, z_t = routing.probs_te, routing.logits_te.logsumexp(dim=-1).square()
        chosen_te = torch.zeros_like(probs_te).scatter(1, routing.ids_tk, 1.0)
        if valid_bs is not None:
            valid_t = valid_bs.reshape(-1)
            probs_te = probs_te * valid_t[:, None]
            chosen_te = chosen_te * valid_t[:, None]
            z_t = z_t * valid_t
        counts_e, load_e = chosen_te.sum(dim=0), self.load
        if self.spec.balance_scope == "micro_batch":
            load_e = counts_e / counts_e.sum().clamp(min=1)
        # One sum over tokens, then over experts: [E] is small and exact in float32.
        probability_e = probs_te.sum(dim=0)
        balance = (probability_e * load_e).sum() * self.spec.num_experts
        return {
            "moe.balance_loss": balance,
            "moe.z_loss": z_t.sum(),
            "moe.counts": counts_e,
            "moe.probability": probability_e.detach(),
            "moe.router": _router_sums(probs_te.detach()),
        }


def _router_sums(probs_te: Tensor) -> Tensor:
    """[3]: the entropy and the highest share summed over tokens, and the tokens.

    Args:
        probs_te: [T, E] float32, zero for padding.
    """
    entropy = -torch.special.xlogy(probs_te, probs_te).sum()
    tokens = (probs_te.sum(dim=1) > 0).sum(dtype=torch.float32)
    return torch.stack([entropy, probs_te.amax(dim=1).sum(), tokens])


def _in_best_groups(ranking_te: Tensor, moe: MoeSpec) -> Tensor:
    """The ranks [T, E], minus infinity outside each token's best groups.

    A group is as good as its best expert under softmax scores (DeepSeek-V2), as its two
    best together under sigmoid ones (V3).
    """
    ranking_tgi = ranking_te.unflatten(-1, (moe.groups, -1))
    judges = 1 if moe.score == "softmax" else 2
    strength_tg = ranking_tgi.topk(judges, dim=-1).values.sum(dim=-1)
    best_tk = strength_tg.topk(moe.top_groups, dim=-1).indices
    out_tg = torch.zeros_like(strength_tg).scatter(1, best_tk, 1.0) == 0
    ranking_tgi = ranking_tgi.masked_fill(out_tg.unsqueeze(-1), -torch.inf)
    return ranking_tgi.flatten(1)  # type: ignore[no-any-return]


def collect_aux(layers: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The `aux` of a model from that of its routed layers: losses add, counts stack."""
    if not layers:
        return {}
    sums = ("moe.balance_loss", "moe.z_loss")
    stacks = ["moe.counts", "moe.dropped", "moe.probability", "moe.router"]
    stacks += ["moe.rerouted"] * ("moe.rerouted" in layers[0])
    aux = {name: torch.stack([one[name] for one in layers]).sum(0) for name in sums}
    aux |= {name: torch.stack([one[name] for one in layers]) for name in stacks}
    return aux


def routed_layers(network: nn.Module) -> Iterator[MoeFeedForward]:
    """The routed layers of a network in block order, also inside wrappers."""
    found = [m for m in network.modules() if isinstance(m, MoeFeedForward)]
    yield from sorted(found, key=lambda layer: layer.layer_index)


@torch.no_grad()
def update_load(load: Tensor, counts: Tensor) -> None:
    """Set the load buffer [E] to each expert's share of the step's assignments [E].

    A step that counted nothing leaves it as it was. No host synchronisation.
    """
    total = counts.sum()
    load.copy_(torch.where(total > 0, counts / total.clamp(min=1), load))


@torch.no_grad()
def update_selection_bias(bias: Tensor, counts: Tensor, rate: float) -> None:
    """Loss-free balancing: raise the bias [E] of experts below the mean count [E].

    The step is rate * sign(mean - count), less its own mean so that biases do not
    drift together. Counts are global over ranks and micro-batches.
    """
    step = rate * torch.sign(counts.mean() - counts)
    bias.add_(step - step.mean())


@torch.no_grad()
def apply_router_updates(network: nn.Module, counts_le: Tensor) -> None:
    """Take a step's global counts into every routed layer's buffers.

    To be called once per optimizer step, never inside forward: a recomputed or repeated
    forward must not count twice. Runs on the device without synchronising.

    Args:
        network: the model, wrapped or not.
        counts_le: [L_moe, E], `moe.counts` summed over micro-batches and ranks.
    """
    layers = list(routed_layers(network))
    if len(layers) != counts_le.shape[0]:
        raise ValueError(f"{len(layers)} routed layers, counts of {len(counts_le)}")
    for layer, counts in zip(layers, counts_le.float(), strict=True):
        update_load(layer.load, counts)
        # Under one expert that trains alone, the others' routing stays as it is.
        if layer.selection_bias is not None and not layer.spec.trained:
            update_selection_bias(
                layer.selection_bias, counts, layer.spec.bias_update_rate
            )
