"""Several tokens a step: guessed, read together, and kept as far as they are right.

Speculative decoding (Leviathan et al., 2023, arXiv:2211.17192) with guesses that are
looked up in the row itself. Such a guess is certain of its token, so their rejection
rule comes to this: draw the token that would have been drawn anyway, and go on reading
guesses while they are that token. Every token is drawn with the random number that it
would have had alone, so answers are those of plain steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.decoding.compiled import blocks_of
from lumina.infer.decoding.drafts import draft
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import Step, fixed_shapes, kernels_of
from lumina.infer.kv.static_cache import StaticCache
from lumina.infer.sampling import NOTHING, Sampler, pick
from lumina.model.network import Network


class SpeculativeStep(Step):
    """The step that reads a token of each row and guesses behind it.

    Args:
        network: as of `Step`, like the others.
        cache: of fixed shape.
        sampler: of the rows.
        rows: side by side.
        device: of the network.
        settings: how many tokens are guessed.
        columns: most tokens of a row, guesses included.

    Attributes:
        tokens: [B, guesses + 1] int64: those of the last step, then `NOTHING`.
    """

    def __init__(
        self,
        network: Network,
        cache: StaticCache,
        sampler: Sampler,
        rows: int,
        device: torch.device,
        settings: StepSettings,
        columns: int,
    ) -> None:
        super().__init__(network, cache, sampler, rows, device, settings)
        self._guesses = settings.speculate
        self.columns = self._guesses + 1
        shape = rows, self.columns
        self.tokens = torch.full(shape, NOTHING, dtype=torch.int64, device=device)
        self._history = torch.zeros(rows, columns, dtype=torch.int64, device=device)
        self._count = torch.zeros(rows, dtype=torch.int64, device=device)
        self._said = torch.zeros(rows, dtype=torch.int64, device=device)
        self._ahead = torch.arange(self.columns, device=device)
        self._drawn = torch.zeros(columns, rows, device=device)

    def begin(self, logits_bv: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Choose the first token of every row, after the prompts."""
        assert isinstance(self.cache, StaticCache)
        if self.cache.remembers:
            raise LuminaError(
                "E002",
                "--speculate takes back what was guessed wrongly, and the model's "
                "registered parts remember a state that cannot be taken back",
                "leave --speculate out",
            )
        for row, prompt in enumerate(prompts):
            self._history[row, : len(prompt)] = torch.tensor(prompt)
        self._count.copy_(torch.tensor([len(prompt) for prompt in prompts]))
        self._said.zero_()
        if not self._sampler.sampling.greedy:
            self._drawn.copy_(self._sampler.uniforms(len(self._drawn)))
        picked_b1 = self._picked(logits_bv[:, None])
        self.tokens.fill_(NOTHING)
        self.tokens[:, :1] = picked_b1
        self._take(picked_b1, torch.ones_like(self._count))

    def refill(self) -> None:
        """Nothing: all random numbers are on the device."""

    def run(self) -> None:
        """The step itself."""
        assert isinstance(self.cache, StaticCache)
        guess_bn = draft(self._history, self._count, self._guesses)
        own_b1 = self._history.gather(1, self._count[:, None] - 1)
        feed = torch.cat([own_b1, guess_bn], dim=1)
        kernels = kernels_of(self._settings)
        blocks = blocks_of(self.network, self._settings)
        with sdpa_kernel(kernels), fixed_shapes(self.network, self.cache), blocks:
            logits = self.network.logits(feed, cache=self.cache)
        picked = self._picked(logits)
        right_b = (picked[:, :-1] == guess_bn).cumprod(dim=1).sum(dim=1)
        self.tokens.copy_(torch.where(self._ahead <= right_b[:, None], picked, NOTHING))
        self._take(picked, right_b + 1)
        self.cache.take_back(self._guesses - right_b)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only (indices into the present ones)."""
        super().keep(rows)
        index = torch.tensor(rows, device=self.device)
        self._history = self._history.index_select(0, index)
        self._count = self._count.index_select(0, index)
        self._said = self._said.index_select(0, index)

    def _picked(self, logits_bnv: Tensor) -> Tensor:
        """The token that each place draws, [B, n], with the numbers of its turn."""
        rows, places = logits_bnv.shape[:2]
        sampling, uniform = self._sampler.sampling, None
        if not sampling.greedy:
            turn = self._said[:, None] + self._ahead[:places]
            turn = turn.clamp(max=len(self._drawn) - 1)
            uniform = self._drawn.T.gather(1, turn).flatten()
        picked = pick(logits_bnv.flatten(0, 1), sampling, uniform)
        return picked.view(rows, places)

    def _take(self, picked_bn: Tensor, count_b: Tensor) -> None:
        """Add the first tokens of each row to what it has said."""
        place = self._count[:, None] + self._ahead[: picked_bn.shape[1]]
        # Rows that are over go on in the last places, where nobody reads.
        place = place.clamp(max=self._history.shape[1] - 1)
        self._history.scatter_(1, place, picked_bn.clamp(min=0))
        self._count.add_(count_b).clamp_(max=self._history.shape[1] - 1)
        self._said += count_b
