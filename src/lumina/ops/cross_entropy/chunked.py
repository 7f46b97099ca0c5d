"""Cross entropy of a linear head that holds only a few rows of logits at a time.

Gradients are computed in the forward pass, chunk by chunk, while the logits are there;
backward only scales them (as in Liger Kernel, Hsu et al., 2024, arXiv:2410.10989).
Memory for logits is bounded by `chunk_bytes` however many tokens and words there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumina.ops.cross_entropy.reference import IGNORE
from lumina.ops.triton_there import has_triton


class Sums(NamedTuple):
    """What comes out, the sums [] float32.

    Attributes:
        loss: weighted cross entropy, summed; carries the gradient where `trained` is
            None.
        correct: counted tokens whose label has the highest logit (ties count).
        loss_t: [T] float32, of every token, unweighted, without gradient.
        correct_t: [T] float32, 1 where a token's label has the highest logit.
        log_z_t: [T] float32, the log of the sum of the exponentials of its logits.
        trained: [], the same with smoothed labels; carries the gradient. None without
            smoothing.
    """

    loss: Tensor
    correct: Tensor
    loss_t: Tensor
    correct_t: Tensor
    log_z_t: Tensor
    trained: Tensor | None = None


def cross_entropy(
    hidden_td: Tensor,
    weight_vd: Tensor,
    labels_t: Tensor,
    weights_t: Tensor | None,
    vocab_size: int,
    chunk_bytes: int,
    smoothing: float = 0.0,
) -> Sums:
    """The reference's sum, with bounded memory; arguments as there.

    The head's gradient is summed over chunks in float32 whatever the compute type. A
    frozen weight or hidden state costs nothing. Without gradients (evaluation) none
    are computed.

    Args:
        hidden_td: [T, D] in the compute type.
        weight_vd: [padded vocabulary, D], any floating type.
        labels_t: [T] int64.
        weights_t: [T] float32 or None.
        vocab_size: logits from here on take no part.
        chunk_bytes: most bytes of float32 logits at a time (at least one row).
        smoothing: share of a label that all tokens have alike; has an effect only where
            there is a gradient.
    """
    counted_t = (labels_t != IGNORE).float()
    if weights_t is not None:
        counted_t = counted_t * weights_t
    if torch.is_grad_enabled() and (hidden_td.requires_grad or weight_vd.requires_grad):
        found = _ChunkedCrossEntropy.apply(
            hidden_td,
            weight_vd,
            labels_t,
            counted_t,
            vocab_size,
            chunk_bytes,
            smoothing,
        )
        trained, plain, correct, *each = found if smoothing else (None, *found)
        loss_t, correct_t, log_z_t = each
        return Sums(plain, correct, loss_t, correct_t, log_z_t, trained)
    weight = weight_vd.to(hidden_td.dtype)
    loss, correct = hidden_td.new_zeros(2, dtype=torch.float32).unbind()
    each_3t = hidden_td.new_empty((3, hidden_td.shape[0]), dtype=torch.float32)
    for rows in chunks(hidden_td.shape[0], weight.shape[0], chunk_bytes):
        logits_cv = matmul_float32(hidden_td[rows], weight.t())
        chunk = _forward(logits_cv, labels_t[rows], vocab_size)
        loss = loss + weighted(chunk.loss_t, counted_t[rows])
        correct = correct + (chunk.correct_t * (labels_t[rows] != IGNORE)).sum()
        each_3t[0, rows], each_3t[1, rows] = chunk.loss_t, chunk.correct_t
        each_3t[2, rows] = chunk.log_z_t
        del logits_cv, chunk  # before those of the next one are made
    return Sums(loss, correct, *each_3t.unbind())


def chunks(tokens: int, vocabulary: int, chunk_bytes: int) -> Iterator[slice]:
    """Even runs of rows whose float32 logits fit `chunk_bytes`, or single rows."""
    most = max(1, chunk_bytes // (4 * vocabulary))
    rows = math.ceil(tokens / math.ceil(tokens / most)) if tokens else 1
    for start in range(0, tokens, rows):
        yield slice(start, min(start + rows, tokens))


class _Chunk(NamedTuple):
    loss_t: Tensor  # [C], unweighted
    correct_t: Tensor  # [C] bool
    log_z_t: Tensor  # [C] log of the sum of the exponentials of the logits
    exponentials_cv: Tensor  # [C, V] exp(logit - row maximum)
    total_c1: Tensor  # [C, 1] their sum
    labels_c1: Tensor  # [C, 1] with ignored labels replaced by 0


def _forward(logits_cv: Tensor, labels_c: Tensor, vocab_size: int) -> _Chunk:
    """Loss of one chunk; the logits' memory is turned into exponentials in place."""
    # Multiplying the padded width keeps the product's shape a multiple of 64.
    logits_cv[:, vocab_size:] = -math.inf
    labels_c1 = labels_c.clamp(min=0).unsqueeze(1)
    target_c1 = logits_cv.gather(1, labels_c1)
    highest_c1 = logits_cv.amax(dim=1, keepdim=True)
    exponentials_cv = logits_cv.sub_(highest_c1).exp_()
    total_c1 = exponentials_cv.sum(dim=1, keepdim=True)
    log_z_c1 = total_c1.log() + highest_c1
    loss_t = (log_z_c1 - target_c1).squeeze(1)
    correct_t = (target_c1 == highest_c1).squeeze(1)
    log_z_t = log_z_c1.squeeze(1)
    return _Chunk(loss_t, correct_t, log_z_t, exponentials_cv, total_c1, labels_c1)


def weighted(loss_c: Tensor, counted_c: Tensor) -> Tensor:
    """Sum of weighted losses; an uncounted row is zero even where it is not finite."""
    return torch.where(counted_c != 0, loss_c * counted_c, 0.0).sum()


def matmul_float32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in float32. CUDA keeps the float32 sums of half-precision products."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b).float()


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b in float32; on CUDA without writing the product by itself."""
    if a.is_cuda and a.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(total, a, b, out_dtype=torch.float32, out=total)
    else:
        total += torch.mm(a, b)


class ChunkGradient(NamedTuple):
    """Loss of the rows of a chunk, and its gradient with respect to their logits."""

    loss_c: Tensor  # [C], unweighted
    correct_c: Tensor  # [C] bool, or 0.0 and 1.0
    log_z_c: Tensor  # [C]
    grad_cv: Tensor  # [C, V] in the compute type


def gradient_of_chunk(
    logits_cv: Tensor,
    labels_c: Tensor,
    counted_c: Tensor,
    vocab_size: int,
    dtype: torch.dtype,
) -> ChunkGradient:
    """Loss of one chunk and its gradient with respect to the logits.

    Args:
        logits_cv: [C, padded vocabulary] float32; its memory may be used again.
        labels_c: [C] int64.
        counted_c: [C] float32, what each row weighs; 0 where it does not count.
        vocab_size: logits from here on take no part.
        dtype: of the gradient.
    """
    if logits_cv.is_cuda and has_triton():
        from lumina.ops.cross_entropy.fused import softmax_gradient

        grad_cv = torch.empty_like(logits_cv, dtype=dtype)
        each_c = softmax_gradient(logits_cv, labels_c, counted_c, vocab_size, grad_cv)
        return ChunkGradient(*each_c, grad_cv)
    chunk = _forward(logits_cv, labels_c, vocab_size)
    counted_c1 = counted_c.unsqueeze(1)
    # (softmax - one hot) * weight, in the memory of the logits.
    grad_cv = chunk.exponentials_cv.mul_(counted_c1 / chunk.total_c1)
    grad_cv.scatter_add_(1, chunk.labels_c1, -counted_c1)
    each_c = (chunk.loss_t, chunk.correct_t, chunk.log_z_t)
    return ChunkGradient(*each_c, grad_cv.to(dtype))


def _smooth(
    grad_cv: Tensor,
    hidden_cd: Tensor,
    weight_vd: Tensor,
    labels_c: Tensor,
    counted_c: Tensor,
    vocab_size: int,
    smoothing: float,
) -> Tensor:
    """Make the gradient of a chunk that of smoothed labels, in place.

    The cross entropy with smoothed labels is the plain one plus smoothing times the
    margin, the label's logit minus the mean logit. The mean logit is the product with
    the mean row of the head.

    Returns:
        [C] float32, the margins.
    """
    labels_c = labels_c.clamp(min=0)
    rows_cd = weight_vd[labels_c].float() - weight_vd[:vocab_size].float().mean(0)
    share_c1 = (smoothing * counted_c).unsqueeze(1).to(grad_cv.dtype)
    grad_cv[:, :vocab_size] -= share_c1 / vocab_size
    grad_cv.scatter_add_(1, labels_c.unsqueeze(1), share_c1)
    return (hidden_cd.float() * rows_cd).sum(1)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass over the chunks."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_td: Tensor,
        weight_vd: Tensor,
        labels_t: Tensor,
        counted_t: Tensor,
        vocab_size: int,
        chunk_bytes: int,
        smoothing: float,
    ) -> tuple[Tensor, ...]:
        """What is minimised; with smoothing the plain loss; the rest of `Sums`."""
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        weight = weight_vd.to(hidden_td.dtype)
        grad_hidden = torch.empty_like(hidden_td) if wants_hidden else None
        grad_weight = (
            torch.zeros_like(weight_vd, dtype=torch.float32) if wants_weight else None
        )
        loss, correct = hidden_td.new_zeros(2, dtype=torch.float32).unbind()
        margin = torch.zeros_like(loss)
        each = [labels_t.new_empty(labels_t.shape, dtype=torch.float32) for _ in "lcz"]
        for rows in chunks(hidden_td.shape[0], weight.shape[0], chunk_bytes):
            hidden_cd, counted_c = hidden_td[rows], counted_t[rows]
            made = gradient_of_chunk(
                matmul_float32(hidden_cd, weight.t()),
                labels_t[rows],
                counted_c,
                vocab_size,
                hidden_td.dtype,
            )
            loss = loss + weighted(made.loss_c, counted_c)
            if smoothing:
                place = hidden_cd, weight, labels_t[rows], counted_c
                margin_c = _smooth(made.grad_cv, *place, vocab_size, smoothing)
                margin = margin + weighted(margin_c, counted_c)
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
        if smoothing:
            plain = loss.clone()
            ctx.mark_non_differentiable(plain, correct, *each)
            return loss + smoothing * margin, plain, correct, *each
        ctx.mark_non_differentiable(correct, *each)
        return loss, correct, *each

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor, *_: Tensor) -> Any:
        """Scale in place: a second backward through the same graph is refused."""
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad_loss)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad_loss).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None, None, None, None
