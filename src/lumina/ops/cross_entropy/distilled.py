"""Cross entropy of a linear head, with a divergence from another model's scores.

On some of the tokens a frozen model says how likely each next token is, and

    strength * T^2 * KL(softmax(base / T) || softmax(own / T))

is added to the cross entropy (Hinton, Vinyals and Dean, 2015, arXiv:1503.02531; against
forgetting, Li and Hoiem, 2016, arXiv:1606.09282). The factor T^2 keeps the gradient's
size where the temperature T changes. As in `chunked`, gradients are made chunk by chunk
in the forward pass, so that neither model's logits are ever there whole.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.ops.cross_entropy.chunked import (
    add_product,
    chunks,
    gradient_of_chunk,
    matmul_float32,
    weighted,
)
from lumina.ops.cross_entropy.reference import IGNORE
from lumina.ops.cross_entropy.reference import cross_entropy as plain_cross_entropy

TENSORS = 4
"""Tensors of a chunk's logits that exist together where two models are compared."""


class Pull(NamedTuple):
    """How tokens are pulled towards what a frozen model says of them.

    Attributes:
        hidden_nd: [N, D] the frozen model's hidden states of the first N tokens.
        weight_vd: [padded vocabulary, D] its head.
        strength: of the divergence beside the cross entropy of a token.
        temperature: by which both models' logits are divided.
    """

    hidden_nd: Tensor
    weight_vd: Tensor
    strength: float
    temperature: float


class DistilledSums(NamedTuple):
    """What comes out, the sums [] float32.

    Attributes:
        trained: cross entropy and weighted divergence; carries the gradient.
        loss: weighted cross entropy of all tokens, without gradient.
        divergence: KL at the temperature, without strength and T^2, weighted as the
            loss is and summed over the first N tokens.
        correct: counted tokens whose label has the highest logit (ties count).
        loss_t: [T] float32, of every token, unweighted.
        correct_t: [T] float32, 1 where a token's label has the highest logit.
        log_z_t: [T] float32, the log of the sum of the exponentials of its logits.
    """

    trained: Tensor
    loss: Tensor
    divergence: Tensor
    correct: Tensor
    loss_t: Tensor
    correct_t: Tensor
    log_z_t: Tensor


def reference(
    hidden_td: Tensor,
    weight_vd: Tensor,
    labels_t: Tensor,
    weights_t: Tensor | None,
    vocab_size: int,
    pull: Pull,
) -> Tensor:
    """`DistilledSums.trained` with all logits of both models at once.

    Args:
        hidden_td: [T, D].
        weight_vd: [padded vocabulary, D]; rows from `vocab_size` on take no part.
        labels_t: [T] int64, `IGNORE` where there is no loss, and no divergence.
        weights_t: [T] float32, or None for ones.
        vocab_size: the words that count.
        pull: towards what, and how strongly.
    """
    loss = plain_cross_entropy(hidden_td, weight_vd, labels_t, weights_t, vocab_size)
    count = len(pull.hidden_nd)
    own, base = (
        F.linear(hidden, weight.to(hidden.dtype))[:, :vocab_size].float()
        / pull.temperature
        for hidden, weight in (
            (hidden_td[:count], weight_vd),
            (pull.hidden_nd, pull.weight_vd),
        )
    )
    each_n = F.kl_div(
        own.log_softmax(1), base.log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    counted_n = _counted(labels_t, weights_t)[:count]
    scale = pull.strength * pull.temperature**2
    return loss + scale * (each_n * counted_n).sum()


def distilled_cross_entropy(
    hidden_td: Tensor,
    weight_vd: Tensor,
    labels_t: Tensor,
    weights_t: Tensor | None,
    vocab_size: int,
    chunk_bytes: int,
    pull: Pull,
) -> DistilledSums:
    """The reference's sum, with bounded memory; arguments as there.

    Args:
        hidden_td: [T, D] in the compute type.
        weight_vd: [padded vocabulary, D], any floating type.
        labels_t: [T] int64.
        weights_t: [T] float32 or None.
        vocab_size: logits from here on take no part.
        chunk_bytes: most bytes of float32 logits at a time, of both models together
            (at least one row of each).
        pull: towards what, and how strongly.
    """
    return DistilledSums(
        *_Distilled.apply(
            hidden_td,
            weight_vd,
            labels_t,
            _counted(labels_t, weights_t),
            vocab_size,
            chunk_bytes,
            pull,
        )
    )


def _counted(labels_t: Tensor, weights_t: Tensor | None) -> Tensor:
    """[T] float32, what each token weighs."""
    counted_t = (labels_t != IGNORE).float()
    return counted_t if weights_t is None else counted_t * weights_t


def _compare(
    logits_cv: Tensor, base_cv: Tensor, counted_c: Tensor, pull: Pull
) -> tuple[Tensor, Tensor]:
    """The divergence of each row, and the gradient of what is trained on.

    Args:
        logits_cv: [C, V] float32 of the model that trains; left as it is.
        base_cv: [C, V] float32 of the frozen model; its memory is used again.
        counted_c: [C] float32, what each row weighs.
        pull: its strength and temperature.

    Returns:
        [C] KL, unweighted, and [C, V] the gradient of strength * T^2 * KL * counted
        with respect to the logits.
    """
    own_cv = logits_cv / pull.temperature
    own_cv -= own_cv.logsumexp(1, keepdim=True)
    base_cv /= pull.temperature
    base_cv -= base_cv.logsumexp(1, keepdim=True)
    likely_cv = base_cv.exp()
    divergence_c = torch.linalg.vecdot(likely_cv, base_cv.sub_(own_cv))
    scale_c1 = (pull.strength * pull.temperature) * counted_c.unsqueeze(1)
    return divergence_c, own_cv.exp_().sub_(likely_cv).mul_(scale_c1)


class _Distilled(torch.autograd.Function):
    """Losses and gradients in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_td: Tensor,
        weight_vd: Tensor,
        labels_t: Tensor,
        counted_t: Tensor,
        vocab_size: int,
        chunk_bytes: int,
        pull: Pull,
    ) -> tuple[Tensor, ...]:
        """The fields of `DistilledSums`."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        dtype, count = hidden_td.dtype, len(pull.hidden_nd)
        weight, base = weight_vd.to(dtype), pull.weight_vd.to(dtype)
        grad_hidden = torch.empty_like(hidden_td) if wants_hidden else None
        grad_weight = (
            torch.zeros_like(weight_vd, dtype=torch.float32) if wants_weight else None
        )
        zeros = hidden_td.new_zeros(3, dtype=torch.float32)
        loss, divergence, correct = zeros.unbind()
        each = [labels_t.new_empty(labels_t.shape, dtype=torch.float32) for _ in "lcz"]
        width, total = weight.shape[0], hidden_td.shape[0]
        pulled = list(chunks(count, width, chunk_bytes // TENSORS))
        free = [
            slice(count + rows.start, count + rows.stop)
            for rows in chunks(total - count, width, chunk_bytes)
        ]
        for rows in pulled + free:
            hidden_cd, counted_c = hidden_td[rows], counted_t[rows]
            logits_cv = matmul_float32(hidden_cd, weight.t())
            pulled_cv = None
            if rows.start < count:
                hidden = pull.hidden_nd[rows].to(dtype)
                divergence_c, pulled_cv = _compare(
                    logits_cv[:, :vocab_size],
                    matmul_float32(hidden, base.t())[:, :vocab_size],
                    counted_c,
                    pull,
                )
                divergence = divergence + weighted(divergence_c, counted_c)
            made = gradient_of_chunk(
                logits_cv, labels_t[rows], counted_c, vocab_size, dtype
            )
            del logits_cv
            if pulled_cv is not None:
                made.grad_cv[:, :vocab_size] += pulled_cv
            del pulled_cv
            loss = loss + weighted(made.loss_c, counted_c)
            correct = correct + (made.correct_c * (labels_t[rows] != IGNORE)).sum()
            each[0][rows], each[1][rows] = made.loss_c, made.correct_c
            each[2][rows] = made.log_z_c
            if grad_hidden is not None:
                torch.mm(made.grad_cv, weight, out=grad_hidden[rows])
            if grad_weight is not None:
                add_product(grad_weight, made.grad_cv.t(), hidden_cd)
            del made  # before the logits of the next chunk are made
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_vd.dtype
        ctx.mark_non_differentiable(loss, divergence, correct, *each)
        trained = loss + (pull.strength * pull.temperature**2) * divergence
        return trained, loss, divergence, correct, *each

    @staticmethod
    def backward(ctx: Any, grad_trained: Tensor, *_: Tensor) -> Any:
        """Scale in place: a second backward through the same graph is refused."""
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad_trained)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_trained).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None
