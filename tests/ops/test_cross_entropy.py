"""Chunked cross entropy: the plain sum and its gradients, in bounded memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from live_bytes import LiveBytes
from lumina.ops.cross_entropy import chunked, reference


def inputs(tokens=37, width=24, vocab=100, padded=128, weighted=True):
    """Fresh random tensors, some labels ignored; the padded rows are large."""
    hidden = torch.randn(tokens, width)
    weight = torch.randn(padded, width)
    weight[vocab:] *= 100
    labels = torch.randint(0, vocab, (tokens,))
    labels[torch.rand(tokens) < 0.3] = reference.IGNORE
    weights = torch.rand(tokens) * 3 if weighted else None
    return hidden, weight, labels, weights, vocab


def with_gradients(function, hidden, weight, *rest, scale=1.0):
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    loss = function(hidden, weight, *rest)
    loss = loss if isinstance(loss, torch.Tensor) else loss.loss
    (loss * scale).backward()
    return loss.detach(), hidden.grad, weight.grad


@pytest.mark.covers("MEM-18")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 36, 37, 1000])
def test_chunks_equal_the_whole_with_gradients(rows, weighted):
    case = inputs(weighted=weighted)
    got = with_gradients(chunked.cross_entropy, *case, rows * 128 * 4, scale=0.37)
    expected = with_gradients(reference.cross_entropy, *case, scale=0.37)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_log_z_is_the_log_of_the_sum_of_the_exponentials(rows, grad):
    hidden, weight, labels, weights, vocab = inputs()
    hidden.requires_grad_(grad)
    sums = chunked.cross_entropy(hidden, weight, labels, weights, vocab, rows * 128 * 4)
    expected = torch.logsumexp((hidden @ weight.t())[:, :vocab], 1)
    assert not sums.log_z_t.requires_grad
    torch.testing.assert_close(sums.log_z_t, expected.detach())


@pytest.mark.covers("TRN-15")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 1000])
@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_smoothed_labels_are_torchs_with_gradients(rows, weighted, smoothing):
    """The reference is `torch.nn.functional.cross_entropy(label_smoothing=...)`."""
    *case, vocab = inputs(weighted=weighted)

    def ours(hidden, weight, labels, weights):
        sums = chunked.cross_entropy(
            hidden, weight, labels, weights, vocab, rows * 128 * 4, smoothing
        )
        assert not sums.loss.requires_grad
        plain = reference.cross_entropy(hidden, weight, labels, weights, vocab)
        torch.testing.assert_close(sums.loss, plain.detach())
        return sums.trained

    def theirs(hidden, weight, labels, weights):
        return reference.cross_entropy(
            hidden, weight, labels, weights, vocab, smoothing
        )

    got = with_gradients(ours, *case, scale=0.37)
    expected = with_gradients(theirs, *case, scale=0.37)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    plain = with_gradients(chunked.cross_entropy, *case, vocab, 4096, scale=0.37)
    assert not torch.allclose(plain[1], got[1], rtol=1e-2)


@pytest.mark.covers("TRN-15")
def test_smoothing_of_half_precision_logits():
    hidden, weight, labels, _, vocab = inputs(tokens=64)
    hidden, weight = hidden.bfloat16(), (weight * 0.1).bfloat16()

    def smoothed(function, *chunk):
        def loss(hidden, weight):
            found = function(hidden, weight, labels, None, vocab, *chunk, 0.2)
            return getattr(found, "trained", found)

        return with_gradients(loss, hidden, weight)

    got = smoothed(chunked.cross_entropy, 2**14)
    expected = smoothed(
        lambda h, w, *r: reference.cross_entropy(h.float(), w.float(), *r)
    )
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=3e-2, atol=3e-2)


def test_padded_rows_of_the_head_get_no_gradient():
    _, _, grad_weight = with_gradients(chunked.cross_entropy, *inputs(), 2**12)
    assert grad_weight[:100].abs().sum() > 0
    assert (grad_weight[100:] == 0).all()


def test_evaluation_gives_the_same_sums_without_gradients():
    hidden, weight, *rest = inputs()
    hidden.requires_grad_()
    train = chunked.cross_entropy(hidden, weight, *rest, 4096)
    with torch.no_grad():
        evaluation = chunked.cross_entropy(hidden, weight, *rest, 4096)
    assert not evaluation.loss.requires_grad
    torch.testing.assert_close(evaluation.loss, train.loss.detach())
    torch.testing.assert_close(evaluation.correct, train.correct)


def test_correct_counts_the_highest_logits_that_count():
    weight = torch.eye(8)
    labels = torch.tensor([0, 1, 2, 3, reference.IGNORE, 5])
    hidden = torch.eye(8)[[0, 1, 7, 3, 4, 6]]
    sums = chunked.cross_entropy(hidden, weight, labels, None, 8, 3 * 8 * 4)
    assert sums.correct == 3


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_does_not_change_the_other(frozen):
    case = inputs()
    _, grad_hidden, grad_weight = with_gradients(reference.cross_entropy, *case)
    hidden = case[0].clone().requires_grad_(frozen != "hidden")
    weight = case[1].clone().requires_grad_(frozen != "weight")
    chunked.cross_entropy(hidden, weight, *case[2:], 4096).loss.backward()
    trained, expected = (weight, grad_weight), (hidden, grad_hidden)
    if frozen == "weight":
        trained, expected = (hidden, grad_hidden), (weight, grad_weight)
    torch.testing.assert_close(trained[0].grad, trained[1], rtol=1e-5, atol=1e-5)
    assert expected[0].grad is None


def test_all_ignored_is_zero_and_finite():
    hidden, weight, labels, weights, vocab = inputs()
    labels.fill_(reference.IGNORE)
    loss, grad_hidden, grad_weight = with_gradients(
        chunked.cross_entropy, hidden, weight, labels, weights, vocab, 4096
    )
    assert loss == 0
    assert (grad_hidden == 0).all() and (grad_weight == 0).all()


def test_the_head_gradient_is_summed_in_float32():
    """Many chunks of bfloat16: the error must stay that of one rounding."""
    torch.manual_seed(0)
    tokens, width, vocab = 2048, 8, 64
    hidden = torch.randn(tokens, width).bfloat16() + 1
    weight = torch.randn(vocab, width) * 0.02
    labels = torch.randint(0, vocab, (tokens,))
    case = (hidden, weight, labels, None, vocab)
    _, _, got = with_gradients(chunked.cross_entropy, *case, 4 * vocab * 4)
    _, _, exact = with_gradients(
        reference.cross_entropy, hidden.float(), weight, labels, None, vocab
    )
    # Summed in bfloat16, 512 chunks are off by several percent.
    assert (got - exact).norm() / exact.norm() < 0.01


def test_backward_twice_is_refused_instead_of_scaled_twice():
    hidden, weight, *rest = inputs()
    loss = chunked.cross_entropy(hidden.requires_grad_(), weight, *rest, 4096).loss
    loss.backward(retain_graph=True, gradient=torch.tensor(2.0))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Largest(TorchDispatchMode):
    """The most elements of any result that is as wide as the vocabulary."""

    def __init__(self, vocab):
        super().__init__()
        self.vocab, self.rows = vocab, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.ndim == 2:
            rows, columns = result.shape
            if columns == self.vocab:
                self.rows = max(self.rows, rows)
        return result


@pytest.mark.covers(
    "TOK-06: embedding and logits memory handled (chunked or fused cross-entropy)",
    "MEM-18",
)
def test_no_more_logits_are_held_than_the_bytes_allow():
    """Compared in float64, in which long sums do not depend on the number of rows.

    In float32 MKL adds up products of so few columns one number after another. Over
    this many words that is an error of up to 1e-3 in a gradient, in the reference as
    in chunks, and another one for each number of rows.
    """
    vocab, chunk_bytes = 100_352, 4 * 100_352 * 5
    hidden, weight, labels, weights, _ = inputs(33, 4, vocab, vocab)
    hidden, weight = hidden.double(), weight.double()
    with Largest(vocab) as largest:
        got = with_gradients(
            chunked.cross_entropy, hidden, weight, labels, weights, vocab, chunk_bytes
        )
    assert 1 <= largest.rows <= 5

    def exact(hidden, weight):
        # The reference's softmax of this many words is in float32.
        loss = F.cross_entropy(hidden @ weight.t(), labels, reduction="none")
        return (loss * weights).sum()

    expected = with_gradients(exact, hidden, weight)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6, check_dtype=False)


@pytest.mark.covers("MEM-18")
@pytest.mark.parametrize(("dtype", "chunks"), [("float32", 1.0), ("bfloat16", 1.5)])
def test_a_chunk_is_gone_before_the_next_one_is_made(dtype, chunks):
    """A gradient in 16 bits takes half of what its logits take, in 32 bits nothing."""
    vocab, rows = 4096, 16
    hidden, weight, labels, *_ = inputs(5 * rows, 8, vocab, vocab, weighted=False)
    hidden, weight = (x.to(getattr(torch, dtype)) for x in (hidden, weight))
    one = rows * vocab * 4
    for learns in (True, False):
        hidden.requires_grad_(learns)
        with LiveBytes() as live:
            live.add(weight)
            before = live.now
            chunked.cross_entropy(hidden, weight, labels, None, vocab, one)
        assert chunks * one <= live.peak - before < 1.05 * chunks * one


class Wide(TorchDispatchMode):
    """How often something of the shape of the head's weight was made."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.made = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.shape == self.shape:
            self.made += 1
        return result


def test_evaluation_makes_no_gradient_of_the_head():
    hidden, weight, *rest = inputs(tokens=5)
    hidden, weight = hidden.requires_grad_(), weight.requires_grad_()
    with Wide(weight.shape) as wide:
        with torch.no_grad():
            chunked.cross_entropy(hidden, weight, *rest, 4096)
        assert wide.made == 0
        chunked.cross_entropy(hidden, weight, *rest, 4096)
        assert wide.made > 0


@pytest.mark.parametrize("tokens,rows", [(0, 3), (1, 3), (7, 3), (9, 3), (5, 100)])
def test_chunks_are_even_and_cover_every_row_once(tokens, rows):
    got = list(chunked.chunks(tokens, 16, rows * 16 * 4))
    covered = [i for part in got for i in range(part.start, part.stop)]
    assert covered == list(range(tokens))
    assert len(got) == math.ceil(tokens / rows)


@pytest.mark.gpu
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_equals_the_reference(dtype, smoothing):
    hidden, weight, labels, weights, vocab = (
        x.cuda() if isinstance(x, torch.Tensor) else x
        for x in inputs(300, 64, 1000, 1024)
    )
    weight[:vocab] *= 0.1
    case = (hidden.to(dtype), weight, labels, weights, vocab)

    def ours(*arguments):
        sums = chunked.cross_entropy(*arguments, 64 * 1024 * 4, smoothing)
        return sums.trained if smoothing else sums.loss

    got = with_gradients(ours, *case)
    exact = with_gradients(
        reference.cross_entropy,
        case[0].float(),
        weight.to(dtype).float(),
        *case[2:],
        smoothing,
    )
    bound = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, theirs in zip(got, exact, strict=True):
        assert (ours.float() - theirs).norm() <= bound * theirs.norm()
