"""Softmax, loss and gradient of a chunk of logits in two reads and one write.

One program a row: the first pass over the row finds maximum and sum together (online
softmax, Milakov and Gimelshein 2018), the second writes the gradient in the compute
type. The row's second read comes largely from the L2 cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096


@triton.jit
def _softmax_gradient_kernel(
    logits_ptr, labels_ptr, counted_ptr, grad_ptr, loss_ptr, correct_ptr, log_z_ptr,
    vocab_size, width, BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * width
    label = tl.load(labels_ptr + row)
    counted = tl.load(counted_ptr + row)
    highest = float("-inf")
    total = 0.0
    for start in range(0, vocab_size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + at, mask=at < vocab_size, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(x))
        total = total * tl.exp(highest - higher) + tl.sum(tl.exp(x - higher))
        highest = higher
    # An ignored label reads column 0 and counts nothing.
    target = tl.load(logits_ptr + tl.maximum(label, 0))
    log_z = tl.log(total) + highest
    tl.store(log_z_ptr + row, log_z)
    tl.store(loss_ptr + row, log_z - target)
    tl.store(correct_ptr + row, (target == highest).to(tl.float32))
    if GRADIENT:
        grad_ptr += row * width
        scale = counted / total
        for start in range(0, width, BLOCK):
            at = start + tl.arange(0, BLOCK)
            x = tl.load(logits_ptr + at, mask=at < vocab_size, other=float("-inf"))
            # Where nothing counts the gradient is zero even if the row is not finite.
            grad = tl.where(counted != 0.0, tl.exp(x - highest) * scale, 0.0)
            grad = tl.where(at == label, grad - counted, grad)
            # The padded columns must be written too: the product reads them.
            grad = tl.where(at < vocab_size, grad, 0.0)
            out = grad.to(grad_ptr.dtype.element_ty)
            tl.store(grad_ptr + at, out, mask=at < width)


def softmax_gradient(
    logits_cv: Tensor,
    labels_c: Tensor,
    counted_c: Tensor,
    vocab_size: int,
    grad_cv: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of every row, and (softmax - one hot) * counted.

    Args:
        logits_cv: [C, V] float32, contiguous.
        labels_c: [C] int64; negative ones count nothing.
        counted_c: [C] float32 weights; 0 for rows that do not count.
        vocab_size: columns from here on take no part.
        grad_cv: [C, V] receives the gradient in its own type; None for the loss alone.

    Returns:
        Each [C] float32: unweighted losses; right guesses, as 0.0 or 1.0; the log of
        the sum of the exponentials of the logits.
    """
    rows, width = logits_cv.shape
    assert logits_cv.is_contiguous() and logits_cv.dtype == torch.float32
    assert grad_cv is None or (
        grad_cv.is_contiguous() and grad_cv.shape == (rows, width)
    )
    loss_c = torch.empty(rows, dtype=torch.float32, device=logits_cv.device)
    correct_c, log_z_c = torch.empty_like(loss_c), torch.empty_like(loss_c)
    _softmax_gradient_kernel[(rows,)](
        logits_cv, labels_c.contiguous(), counted_c.contiguous(),
        logits_cv if grad_cv is None else grad_cv, loss_c, correct_c, log_z_c,
        vocab_size, width, BLOCK=BLOCK, GRADIENT=grad_cv is not None, num_warps=16,
    )  # fmt: skip
    return loss_c, correct_c, log_z_c
