"""Autoregressive decoding with a key/value cache, several prompts side by side.

A row gives what it gives alone: prompts of different length are padded at the left,
padding is never attended to, every row draws from its own random stream, and routed
layers keep every token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.cache import KVCache
from lumina.infer.kv.decoding_cache import DecodingCache
from lumina.infer.kv.paged_cache import PagedCache
from lumina.infer.kv.pages import Pool
from lumina.infer.kv.settings import CacheSettings, place_of
from lumina.infer.sampling import Sampler, Sampling
from lumina.model.network import Network

PREFILL_COLUMNS = 1024
"""Prompt tokens run through the network at a time: bounds the attention mask."""

KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Attention kernels of decoding: cuDNN would make a plan for every length of the cache,
which takes longer than the step."""

END = "stop"
FULL = "length"
CONTEXT = "context"


def generate(
    network: Network,
    ids: Sequence[int],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.8,
    top_k: int = 50,
    top_p: float = 0.9,
    stop_ids: Collection[int] = (),
    seed: int | None = None,
) -> Iterator[int]:
    """Continues one prompt, token by token.

    Args:
        network: any `Network`; used in evaluation mode.
        ids: the prompt, at least one token.
        max_new_tokens: most tokens to give.
        temperature: see `Sampling`, as `top_k`, `top_p`, `seed`.
        stop_ids: tokens that end the answer; they are not given out.

    Raises:
        LuminaError: E005, E105, E002 for a prompt that does not fit, at the first
            token.
    """
    sampling = Sampling(temperature, top_k, top_p, seed)
    decoding = Decoding(
        network, [ids], sampling, max_new_tokens=max_new_tokens, stop_ids=stop_ids
    )
    for step in decoding:
        for _, token in step:
            yield token


def context_limit(network: Network) -> int | None:
    """Most tokens of prompt and answer together; None with a sliding window.

    Learned positions end with the training row, window or not. With sinks or dilation,
    queries and keys are farther apart than any pair seen in training.
    """
    spec = network.spec
    window = spec.window_size and not spec.beyond_window
    endless = window and spec.pos_encodings != "learned"
    return None if endless else spec.context_length


def new_cache(
    network: Network,
    rows: int = 1,
    capacity: int = 0,
    *,
    padding: Tensor | None = None,
    settings: CacheSettings | None = None,
) -> DecodingCache:
    """An empty cache that fits the network's attention.

    Args:
        network: any `Network`.
        rows: sequences decoded together.
        capacity: columns to allocate at once.
        padding: [rows] int64, columns of padding at the left of each row.
        settings: how keys and values are kept.

    Raises:
        LuminaError: as of `CacheSettings.check`.
    """
    settings = settings or CacheSettings()
    settings.check(network)
    sight = settings.sight(network)
    if settings.paged:
        room = capacity or context_limit(network)
        limit = rows * settings.blocks(room) if room else None
        pool = Pool(settings.keeping(), settings.block, limit)
        return PagedCache(pool, rows, *sight)
    return KVCache(
        rows,
        window=sight[0],
        beyond=sight[1],
        padding=padding,
        capacity=capacity,
        keeping=settings.keeping(),
    )


class Decoding:
    """One answer for each of several prompts, one token for each row in a step.

    Iterating gives, for every step, the (row, token) pairs that it decided. A row whose
    answer is over leaves the batch, so the rest cost less.

    Args:
        network: any `Network`.
        prompts: token ids of each row.
        sampling: how tokens are chosen.
        max_new_tokens: most tokens of an answer.
        stop_ids: tokens that end an answer; they are not given out.
        cache: for a single prompt, a cache that holds its first tokens already.
        settings: how keys and values are kept, where `cache` is not given.

    Attributes:
        new_ids: the answers so far, by row.
        reasons: why each row ended: "stop", "length" (max_new_tokens), "context" (the
            model can see no further), or "" while it goes on.
    """

    def __init__(
        self,
        network: Network,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        max_new_tokens: int = 512,
        stop_ids: Collection[int] = (),
        cache: DecodingCache | None = None,
        settings: CacheSettings | None = None,
    ) -> None:
        if max_new_tokens < 1:
            raise LuminaError(
                "E005", f"max-new-tokens is {max_new_tokens}", "give at least 1"
            )
        self._network = network
        self._limit = context_limit(network)
        for prompt in prompts:
            self._check(prompt)
        self._lengths = [len(prompt) for prompt in prompts]
        self._max_new = max_new_tokens
        self._stop_ids = frozenset(stop_ids)
        self._sampler = Sampler(sampling, len(prompts))
        self._device = place_of(network)
        self.new_ids: list[list[int]] = [[] for _ in prompts]
        self.reasons = [""] * len(prompts)
        self._rows = list(range(len(prompts)))  # still going on, in cache order
        self._cache = cache or self._fresh_cache(settings)
        self._prompts = list(prompts)  # until they have been read
        self._feed = torch.empty(0)
        if prompts and self._cache.length >= max(self._lengths):
            raise ValueError("the cache holds the whole prompt; rewind it by one")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        while any(not self.reasons[row] for row in self._rows):
            yield self.step()

    def end(self, row: int, reason: str = END) -> None:
        """Ends a row from outside, as when its text holds a stop string."""
        self.reasons[row] = reason

    def step(self) -> list[tuple[int, int]]:
        """Decides one token of every row that goes on; gives (row, token) pairs."""
        self._drop_ended()
        tokens = self._sampler.draw(self._last_logits())
        self._feed = torch.tensor(tokens, device=self._device).unsqueeze(-1)
        given = []
        for row, token in zip(self._rows, tokens, strict=True):
            if token in self._stop_ids:
                self.reasons[row] = END
                continue
            self.new_ids[row].append(token)
            given.append((row, token))
            count = len(self.new_ids[row])
            if count == self._max_new:
                self.reasons[row] = FULL
            elif self._limit and self._lengths[row] + count >= self._limit:
                self.reasons[row] = CONTEXT
        return given

    def _check(self, prompt: Sequence[int]) -> None:
        if not prompt:
            raise LuminaError(
                "E105",
                "the prompt is empty",
                "give at least one token: the tokenizer has no begin token, which "
                "would be one",
            )
        if self._limit and len(prompt) >= self._limit:
            raise LuminaError(
                "E005",
                f"the prompt has {len(prompt):,} tokens, and the model sees "
                f"{self._limit:,} with its answer",
                "shorten the prompt",
            )
        vocabulary = self._network.spec.vocab_size
        if not 0 <= min(prompt) <= max(prompt) < vocabulary:
            raise LuminaError(
                "E002",
                f"the prompt has token {max(prompt)}, the model knows {vocabulary:,}",
                "use the tokenizer that the model was trained with",
            )

    def _fresh_cache(self, settings: CacheSettings | None) -> DecodingCache:
        longest = max(self._lengths, default=0)
        capacity = longest + self._max_new
        if self._limit:
            capacity = min(capacity, self._limit)
        padding = torch.tensor([longest - length for length in self._lengths])
        return new_cache(
            self._network,
            len(self._lengths),
            capacity,
            padding=padding.to(self._device) if padding.any() else None,
            settings=settings,
        )

    def _drop_ended(self) -> None:
        kept = [i for i, row in enumerate(self._rows) if not self.reasons[row]]
        if len(kept) == len(self._rows):
            return
        index = torch.tensor(kept, device=self._device)
        self._rows = [self._rows[i] for i in kept]
        self._sampler.keep(kept)
        self._cache.keep_rows(index)
        if self._prompts:
            self._prompts = [self._prompts[i] for i in kept]
        else:
            self._feed = self._feed.index_select(0, index)

    @torch.inference_mode()
    def _last_logits(self) -> Tensor:
        """Logits [B, V] after the prompts or the tokens in `_feed`, which enter."""
        with evaluating(self._network), sdpa_kernel(KERNELS):
            if not self._prompts:
                return self._logits(self._feed)
            pieces = self._cache.read_prompts(
                self._prompts, PREFILL_COLUMNS, self._device
            )
            ends = [
                logits for ids, end in pieces for logits in [self._logits(ids)] if end
            ]
            self._prompts = []
            return torch.cat(ends)

    def _logits(self, ids: Tensor) -> Tensor:
        logits = self._network.logits(ids, cache=self._cache, last_only=True)
        return logits[:, 0]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, dropless experts), and back as it was."""
    training = module.training
    if training:
        module.eval()
    try:
        yield
    finally:
        if training:
            module.train()
