"""One model in several precisions: the same prompts and seeds, and what they cost."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.evaluate import evaluate
from lumina.infer.sampling import Sampling
from lumina.infer.text import Answers
from lumina.model.host_table import device_of
from lumina.model.network import Network
from lumina.quantities import byte_size

COMPARED = 1024
"""Most tokens whose logits are compared: they are kept in float32 on the CPU."""

Open = Callable[[str], tuple[Network, Tokenizer]]
"""The model in a precision, by its name."""


@dataclass(frozen=True)
class InPrecision:
    """What one precision gives.

    Attributes:
        name: the precision.
        computes_in: type of the activations.
        texts: the continuation of each prompt.
        tokens: how many were generated.
        tokens_per_second: of generation, all prompts after one another.
        weights_bytes: all weights and their scales.
        peak_bytes: most memory of the GPU that was in use; None on a CPU.
        logits_mean: mean absolute difference from the first precision's logits, on the
            prompts and what the first one answered; 0 for the first.
        logits_largest: the largest such difference.
        same_choice: share of these tokens after which the likeliest next token is the
            first precision's.
        perplexity: on the text that was given; None without one.
    """

    name: str
    computes_in: str
    texts: list[str]
    tokens: int
    tokens_per_second: float
    weights_bytes: int
    peak_bytes: int | None
    logits_mean: float
    logits_largest: float
    same_choice: float
    perplexity: float | None


@dataclass(frozen=True)
class Comparison:
    """A model in several precisions.

    Attributes:
        device: where it ran.
        torch: the version.
        seed: of every answer.
        logits_spread: standard deviation of the first precision's logits, to compare
            differences with.
        compared_tokens: tokens whose logits were compared.
        prompts: what was continued.
        results: one for each precision, in the order asked for.
    """

    device: str
    torch: str
    seed: int
    logits_spread: float
    compared_tokens: int
    prompts: list[str]
    results: list[InPrecision]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """The answers side by side, then the figures."""
        lines = []
        width = max(len(one.name) for one in self.results)
        for number, prompt in enumerate(self.prompts):
            lines.append(f"prompt {number + 1}: {prompt}")
            lines += [
                f"  {one.name:<{width}}  {one.texts[number]!r}" for one in self.results
            ]
        first = self.results[0].name
        lines.append(f"\non {self.device}, seed {self.seed}, against {first}:")
        for one in self.results:
            figures = [
                f"logits differ by {one.logits_mean:.3g} on average and "
                f"{one.logits_largest:.3g} at most",
                f"{one.same_choice:.1%} the same likeliest token",
                f"weights {byte_size(one.weights_bytes)}",
                f"{one.tokens_per_second:,.1f} tokens a second",
            ]
            if one.peak_bytes is not None:
                figures.insert(3, f"GPU memory {byte_size(one.peak_bytes)}")
            if one.perplexity is not None:
                figures.insert(2, f"perplexity {one.perplexity:,.4f}")
            lines.append(f"  {one.name:<{width}}  {', '.join(figures)}")
        lines.append(
            f"  the logits of {first} spread by {self.logits_spread:.3g}; compared on "
            f"{self.compared_tokens:,} tokens"
        )
        return "\n".join(lines)


def compare_precisions(
    opened: Open,
    names: Sequence[str],
    prompts: Sequence[str],
    sampling: Sampling,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    data: Sequence[str] = (),
) -> Comparison:
    """Continue the same prompts in each precision, one model in memory at a time.

    Args:
        opened: gives the model in a precision.
        names: the precisions; the others are compared with the first.
        prompts: texts to continue.
        sampling: how tokens are chosen; its seed is used for each precision.
        max_new_tokens: most tokens of an answer.
        stop: texts that end an answer.
        data: files to measure the perplexity on; () for none.

    Raises:
        LuminaError: E005 for fewer than two precisions or one named twice; else as of
            `lumina.load` and `lumina.evaluate`.
    """
    if len(set(names)) < len(names) or len(names) < 2:
        raise LuminaError(
            "E005",
            f"precisions to compare are {', '.join(names) or 'none'}",
            "name two or more different ones, such as fp32 bf16 int8",
        )
    results: list[InPrecision] = []
    rows: list[list[int]] = []
    reference: list[Tensor] = []
    place = ""
    for name in names:
        network, tokenizer = opened(name)
        device = device_of(network)
        place = _device_name(device)
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        texts, answers, seconds = _answers(
            network, tokenizer, prompts, sampling, max_new_tokens, stop
        )
        peak = (
            torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
        )
        if not rows:
            asked = [tokenizer.prompt(text) for text in prompts]
            rows = _compared(asked, answers)
        logits = [_logits(network, row) for row in rows]
        reference = reference or logits
        mean, largest, same = _difference(reference, logits)
        perplexity = None
        if data:
            perplexity = evaluate((network, tokenizer), list(data)).perplexity
        count = sum(map(len, answers))
        results.append(
            InPrecision(
                name,
                str(network.backbone.compute_dtype).removeprefix("torch."),
                texts,
                count,
                count / max(seconds, 1e-9),
                _bytes(network),
                peak,
                mean,
                largest,
                same,
                perplexity,
            )
        )
        del network
        gc.collect()
    return Comparison(
        place,
        torch.__version__,
        sampling.seed or 0,
        float(torch.cat([one.flatten() for one in reference]).std()),
        sum(map(len, rows)),
        list(prompts),
        results,
    )


def _answers(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    sampling: Sampling,
    max_new_tokens: int,
    stop: Sequence[str],
) -> tuple[list[str], list[list[int]], float]:
    """(texts, their tokens, seconds), each prompt by itself and from the same seed."""

    def answer(prompt: str, most: int) -> tuple[str, list[int]]:
        answers = Answers(
            network,
            tokenizer,
            [tokenizer.prompt(prompt)],
            sampling,
            max_new_tokens=most,
            stop=list(stop),
        )
        for _ in answers:
            pass
        (done,) = answers.completions
        return done.text, done.ids

    answer(prompts[0], 1)  # the libraries set themselves up
    began = time.perf_counter()
    found = [answer(prompt, max_new_tokens) for prompt in prompts]
    seconds = time.perf_counter() - began
    return [text for text, _ in found], [ids for _, ids in found], seconds


def _compared(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[int]]:
    """The rows whose logits are compared: at most `COMPARED` tokens in all."""
    share = max(2, COMPARED // max(1, len(prompts)))
    rows = [
        [*prompt, *answer][-share:]
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return rows[: COMPARED // 2]


@torch.inference_mode()
def _logits(network: Network, row: list[int]) -> Tensor:
    """[tokens, V] float32 on the CPU."""
    device = device_of(network)
    ids = torch.tensor([row], device=device)
    return network.logits(ids)[0].float().cpu()


def _difference(
    reference: list[Tensor], logits: list[Tensor]
) -> tuple[float, float, float]:
    """(mean, largest absolute difference, share of equal likeliest tokens)."""
    wanted, found = torch.cat(reference), torch.cat(logits)
    apart = (wanted - found).abs()
    same = (wanted.argmax(-1) == found.argmax(-1)).float().mean()
    return float(apart.mean()), float(apart.max()), float(same)


def _bytes(network: Network) -> int:
    """Of all weights, and of the scales of those in 8 bits."""
    held = {t.data_ptr(): t for t in (*network.parameters(), *network.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in held.values())


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{device.type}, {torch.get_num_threads()} threads"
