"""Autoregressive decoding with a key/value cache, several prompts side by side.

A row gives what it gives alone: prompts of different length are padded at the left,
padding is never attended to, every row draws from its own random stream, and routed
layers keep every token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.attention import sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.cache import KVCache
from lumina.infer.decoding.compiled import blocks_of, require
from lumina.infer.decoding.reading import LateTokens
from lumina.infer.decoding.recording import Runner
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.speculation import SpeculativeStep
from lumina.infer.decoding.step import Step, kernels_of
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.kv.decoding_cache import DecodingCache
from lumina.infer.kv.paged_cache import PagedCache
from lumina.infer.kv.pages import Pool
from lumina.infer.kv.settings import CacheSettings, at_once, place_of
from lumina.infer.kv.static_cache import StaticCache
from lumina.infer.sampling import NOTHING, Sampler, Sampling, checked
from lumina.model.network import Network

PREFILL_COLUMNS = 1024
"""Prompt tokens run through the network at a time: bounds the attention mask."""

AHEAD = 2
"""Steps that a recorded step is ahead of the host, which reads tokens that late."""

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
    apart: bool = False,
) -> DecodingCache:
    """An empty cache that fits the network's attention.

    Args:
        network: any `Network`.
        rows: sequences decoded together.
        capacity: columns to allocate at once.
        padding: [rows] int64, columns of padding at the left of each row.
        settings: how keys and values are kept.
        apart: rows are read one by one; see `StaticCache`.

    Raises:
        LuminaError: as of `CacheSettings.check`; E002 for rows apart in a cache that
            is not of fixed shape.
    """
    settings = settings or CacheSettings()
    if apart and (settings.paged or settings.offload):
        raise LuminaError(
            "E002",
            "--batch-invariant reads a cache of fixed shape, not one in blocks or in "
            "the host's memory",
            "leave --kv-cache-paged and --kv-cache-offload out",
        )
    settings.check(network)
    sight = settings.sight(network)
    if settings.paged:
        room = capacity or context_limit(network)
        limit = rows * settings.blocks(room) if room else None
        pool = Pool(settings.keeping(), settings.block, limit)
        return PagedCache(pool, rows, *sight)
    if settings.offload:  # grows with the rows: all that there is crosses to the device
        return KVCache(
            rows,
            window=sight[0],
            beyond=sight[1],
            padding=padding,
            capacity=capacity,
            keeping=settings.keeping(),
        )
    return StaticCache(
        rows,
        place_of(network),
        window=sight[0],
        beyond=sight[1],
        padding=None if apart else padding,
        capacity=capacity,
        keeping=settings.keeping(),
        apart=apart,
        at_once=at_once(sight[0]),
        positions_below=context_limit(network),
    )


class Decoding:
    """One answer for each of several prompts, one token for each row in a step.

    Iterating gives, for every step, the (row, token) pairs that it decided. A row whose
    answer is over leaves the batch, so the rest cost less; of a recorded step it stays
    until all are over, since reading the weights is most of a step.

    Args:
        network: any `Network`.
        prompts: token ids of each row.
        sampling: how tokens are chosen.
        max_new_tokens: most tokens of an answer.
        stop_ids: tokens that end an answer; they are not given out.
        cache: for a single prompt, a cache that holds its first tokens already.
        settings: how keys and values are kept, where `cache` is not given.
        stepping: how a step is run.
        workspace: where a cache, and the step recorded over it, come from and go to
            once all answers are over.

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
        stepping: StepSettings | None = None,
        workspace: Workspace | None = None,
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
        self._device = place_of(network)
        self.new_ids: list[list[int]] = [[] for _ in prompts]
        self.reasons = [""] * len(prompts)
        self._rows = list(range(len(prompts)))  # in the batch, in cache order
        self._settings, self._workspace = settings, workspace
        self._stepping = stepping or StepSettings()
        if self._stepping.compile:
            require(network)
        self._cache = cache or self._fresh_cache()
        self._prompts = list(prompts)  # until they have been read
        if prompts and self._cache.length >= max(self._lengths):
            raise ValueError("the cache holds the whole prompt; rewind it by one")
        self._runner = self._runner_of(sampling, self._stepping)
        self._step = self._runner.step
        self._late = LateTokens()
        self._begun = 0  # steps given to the device

    @property
    def path(self) -> str:
        """How steps run: "eager" or "cuda graph", by which kernels; why, on CUDA."""
        kernels = self._step.kernels
        return self._runner.path + ("" if kernels == "plain" else f", {kernels}")

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        while any(not self.reasons[row] for row in self._rows):
            yield self.step()
        self._give_back()

    def end(self, row: int, reason: str = END) -> None:
        """Ends a row from outside, as when its text holds a stop string."""
        self.reasons[row] = reason

    def step(self) -> list[tuple[int, int]]:
        """Decides one token of every row that goes on; gives (row, token) pairs."""
        self._drop_ended()
        # The first tokens are given before anything is recorded.
        ahead = AHEAD if self._runner.records and self._begun else 0
        while len(self._late) <= ahead and self._begun < self._steps:
            self._begin_step()
        places = self._late.take()
        checked([token for _, token in self._in_batch(places)])
        given = []
        for row, token in self._in_batch(places):
            if not self.reasons[row] and self._takes(row, token):
                given.append((row, token))
        if self._stepping.speculate:
            self._count_columns(len(self._late))
        return given

    def _takes(self, row: int, token: int) -> bool:
        """Add a token to an answer, and end it where it is over."""
        if token in self._stop_ids:
            self.reasons[row] = END
            return False
        self.new_ids[row].append(token)
        count = len(self.new_ids[row])
        if count == self._max_new:
            self.reasons[row] = FULL
        elif self._limit and self._lengths[row] + count >= self._limit:
            self.reasons[row] = CONTEXT
        return True

    def settle(self) -> None:
        """Let the cache count no column that the host does not know to be there."""
        if self._stepping.speculate and self._begun:
            self._count_columns(0)

    def _count_columns(self, coming: int) -> None:
        """Tell the cache how many columns it has: guesses may have been taken back.

        Args:
            coming: steps that the host has not read.
        """
        pairs = zip(self._lengths, self.new_ids, strict=True)
        read = max(length + len(ids) for length, ids in pairs) - 1
        self._cache.length = read + coming * self._step.columns

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

    @property
    def _steps(self) -> int:
        """Most steps that any row can take."""
        if not self._limit:
            return self._max_new
        return min(self._max_new, self._limit - min(self._lengths))

    @property
    def _columns(self) -> int:
        """Most columns of the cache, guesses and steps ahead of the host included."""
        if not self._lengths:
            return 1
        guesses = self._stepping.speculate
        beyond = (AHEAD + 1) * (guesses + 1) if guesses else 0
        return max(self._lengths) + self._steps + beyond

    def _in_batch(self, places: list[list[int]]) -> list[tuple[int, int]]:
        """(row, token) of the rows that go on, in the order of their tokens."""
        pairs = zip(self._rows, places, strict=True)
        return [
            (row, token)
            for row, tokens in pairs
            for token in tokens
            if token != NOTHING and not self.reasons[row]
        ]

    def _fresh_cache(self) -> DecodingCache:
        longest, rows = max(self._lengths, default=0), len(self._lengths)
        pad = torch.tensor([longest - length for length in self._lengths])
        padding = pad.to(self._device) if pad.any() else None
        columns, apart = self._columns, self._stepping.batch_invariant
        if self._workspace is not None:
            columns = self._workspace.rounded(columns)
            held = self._workspace.take(self._network, rows, columns, self._settings)
            if held is not None and held.apart == apart:
                held.restart(None if apart else padding)
                return held
        return new_cache(
            self._network,
            rows,
            columns,
            padding=padding,
            settings=self._settings,
            apart=apart,
        )

    def _runner_of(self, sampling: Sampling, stepping: StepSettings) -> Runner:
        """What runs the steps: the one that was recorded over the cache, or another."""
        cache, rows = self._cache, len(self._lengths)
        sampler = Sampler(sampling, rows)
        key = replace(sampling, seed=None), stepping
        if isinstance(cache, StaticCache):
            cache.reserve(self._columns)
            if cache.recorded is not None and cache.recorded[0] == key:
                runner: Runner = cache.recorded[1]
                runner.step.restart(sampler)
                return runner
        step = self._step_of(sampler, stepping)
        runner = Runner(step, stepping, self._device)
        if isinstance(cache, StaticCache) and runner.records:
            cache.recorded = key, runner
        return runner

    def _step_of(self, sampler: Sampler, stepping: StepSettings) -> Step:
        """A step over the cache."""
        network, cache = self._network, self._cache
        rows, device = len(self._lengths), self._device
        if not stepping.speculate:
            return Step(network, cache, sampler, rows, device, stepping)
        if not isinstance(cache, StaticCache):
            raise LuminaError(
                "E002",
                "--speculate takes tokens back, which a cache in blocks or in the "
                "host's memory does not",
                "leave --kv-cache-paged and --kv-cache-offload out",
            )
        return SpeculativeStep(
            network, cache, sampler, rows, device, stepping, self._columns
        )

    def _give_back(self) -> None:
        """Once all answers are over: the cache is free for the next ones."""
        if self._workspace is not None and isinstance(self._cache, StaticCache):
            rows = self._cache.rows
            self._workspace.give(self._network, rows, self._settings, self._cache)
            self._workspace = None

    def _drop_ended(self) -> None:
        """Let rows leave whose answer is over, where that costs no new recording."""
        kept = [i for i, row in enumerate(self._rows) if not self.reasons[row]]
        if len(kept) == len(self._rows) or self._runner.records or self._late:
            return
        self._rows = [self._rows[i] for i in kept]
        self._step.keep(kept)
        if self._prompts:
            self._prompts = [self._prompts[i] for i in kept]

    @torch.inference_mode()
    def _begin_step(self) -> None:
        """Give the device one more step; the first one reads the prompts."""
        with evaluating(self._network):
            if self._prompts:
                self._step.begin(self._after_prompts(), self._prompts)
                self._prompts = []
            else:
                self._runner.run()
        self._late.put(self._step.tokens)
        self._begun += 1

    def _after_prompts(self) -> Tensor:
        """Logits [B, V] after the prompts, which enter the cache."""
        ends = []
        blocks = blocks_of(self._network, self._stepping)
        with sdpa_kernel(kernels_of(self._stepping)), blocks:
            for ids, end in self._cache.read_prompts(
                self._prompts, PREFILL_COLUMNS, self._device
            ):
                logits = self._network.logits(ids, cache=self._cache, last_only=True)
                if end:
                    ends.append(logits[:, 0])
        return torch.cat(ends)


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
