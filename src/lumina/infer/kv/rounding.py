"""What a cache that rounds costs: in predictions, and in the loss of texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lumina.infer.generate import PREFILL_COLUMNS, evaluating, new_cache
from lumina.infer.kv.settings import CacheSettings, place_of
from lumina.model.network import Network


@dataclass(frozen=True)
class Rounding:
    """The same texts read with a plain cache and with another.

    Attributes:
        tokens: whose prediction was compared.
        loss: mean cross entropy with the other cache, in nats a token.
        plain_loss: with the plain one.
        kl: mean Kullback-Leibler divergence of the predictions from the plain ones, in
            nats a token.
        same_choice: share of the tokens after which the likeliest next one is the same.
    """

    tokens: int
    loss: float
    plain_loss: float
    kl: float
    same_choice: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """One line."""
        return (
            f"perplexity {math.exp(self.loss):,.4f}, with a plain cache "
            f"{math.exp(self.plain_loss):,.4f}; KL {self.kl:.3g} nats a token; "
            f"{self.same_choice:.2%} the same likeliest token; "
            f"on {self.tokens:,} tokens"
        )


@torch.inference_mode()
def measure_rounding(
    network: Network,
    rows: Sequence[Sequence[int]],
    settings: CacheSettings,
    on_row: Callable[[int, int], None] | None = None,
) -> Rounding:
    """Read every row through a plain cache and through another, and compare.

    Attention sees what the cache holds, of a token itself too. So reading a row at
    once gives what reading it token by token gives.

    Args:
        network: any `Network` that writes texts.
        rows: token ids, two or more in each row.
        settings: of the other cache.
        on_row: called with the rows done and the rows in all.
    """
    sums, count = torch.zeros(4, dtype=torch.float64), 0
    with evaluating(network):
        for done, row in enumerate(rows):
            if on_row is not None:
                on_row(done, len(rows))
            ids = torch.tensor([list(row)], device=place_of(network))
            caches = [
                new_cache(network, capacity=len(row), settings=one)
                for one in (settings, None)
            ]
            chunks = ids[:, :-1].split(PREFILL_COLUMNS, dim=1)
            for number, chunk in enumerate(chunks):
                other, plain = (network.logits(chunk, cache=c)[0] for c in caches)
                begin = 1 + number * PREFILL_COLUMNS
                sums += _compared(other, plain, ids[0, begin:][: chunk.shape[1]])
            count += len(row) - 1
    loss, plain_loss, kl, same = (sums / max(count, 1)).tolist()
    return Rounding(count, loss, plain_loss, kl, same)


def _compared(other_tv: Tensor, plain_tv: Tensor, next_t: Tensor) -> Tensor:
    """[4] sums over tokens: both losses, divergence, equal choices."""
    found, wanted = (t.float().log_softmax(-1) for t in (other_tv, plain_tv))
    apart = F.kl_div(found, wanted, reduction="sum", log_target=True)
    same = (found.argmax(-1) == wanted.argmax(-1)).sum()
    losses = (F.nll_loss(logp, next_t, reduction="sum") for logp in (found, wanted))
    return torch.stack([*losses, apart, same]).double().cpu()
