"""Choosing the next token from logits: greedy, temperature, top-k, top-p."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lumina.errors import LuminaError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token; higher is more varied.
        top_k: only the k likeliest tokens may be drawn; 0: all.
        top_p: only the smallest set of tokens whose probabilities reach p may be
            drawn (Holtzman et al., 2020, nucleus sampling); 1: all.
        seed: the same seed, prompt and model give the same answer, whatever else is
            in the batch. None: another answer every time.

    Raises:
        LuminaError: E005 for a value out of range.
    """

    temperature: float = 0.8
    top_k: int = 50
    top_p: float = 0.9
    seed: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            _refuse("temperature", self.temperature, "0 (greedy) or more")
        if self.top_k < 0:
            _refuse("top-k", self.top_k, "0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            _refuse("top-p", self.top_p, "more than 0 and at most 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            _refuse("seed", self.seed, "a whole number from 0 to 2**63 - 1")

    @property
    def greedy(self) -> bool:
        """Whether no random number is used."""
        return self.temperature == 0


def sampling_for(
    says: Mapping[str, Any],
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Sampling:
    """How the next token is chosen where the user leaves choices to the model.

    A model's generation_config.json is read as transformers reads it: without
    `do_sample` the likeliest token is taken, and what it does not name is temperature
    1, top-k 50, top-p 1. Where it says nothing of this, `Sampling`'s own values hold.

    Args:
        says: generation_config.json; `Tokenizer.generation`.
        temperature: what the user gives, as the others; None leaves it to the model.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        seed: see `Sampling`.

    Raises:
        LuminaError: E005 for a value out of range, the user's or the model's.
    """
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    given = {name: value for name, value in given.items() if value is not None}
    if not decides_sampling(says):
        return Sampling(seed=seed, **given)  # type: ignore[arg-type]
    values: dict[str, Any] = {"temperature": 1.0, "top_k": 50, "top_p": 1.0}
    for name in values:
        value = says.get(name)
        if value is None or name in given:
            continue
        whole = name == "top_k"
        if isinstance(value, bool) or not isinstance(
            value, int if whole else int | float
        ):
            _refuse(f"{name} of the model's generation_config.json", value, "a number")
        values[name] = value
    if says.get("do_sample") is not True and not given:
        values["temperature"] = 0.0
    return Sampling(seed=seed, **{**values, **given})


MOST_NEW_TOKENS = 512
"""Most tokens of an answer where nothing says how many."""


def answer_length(says: Mapping[str, Any], given: int | None) -> int:
    """Most tokens of an answer: the user's number, else the model's, else 512.

    Args:
        says: generation_config.json; `Tokenizer.generation`.
        given: what the user gives; None leaves it to the model.

    Raises:
        LuminaError: E005 for a number of the model's that is none.
    """
    if given is not None:
        return given
    value = says.get("max_new_tokens")
    if value is None:
        return MOST_NEW_TOKENS
    if type(value) is not int or value < 1:
        name = "max_new_tokens of the model's generation_config.json"
        _refuse(name, value, "a whole number from 1 on")
    return int(value)


def decides_sampling(says: Mapping[str, Any]) -> bool:
    """Whether a generation_config.json says how tokens are to be chosen."""
    names = ("do_sample", "temperature", "top_k", "top_p")
    return any(says.get(name) is not None for name in names)


_NEUTRAL = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_p": 0.0,
            "typical_p": 1.0, "num_beams": 1, "encoder_repetition_penalty": 1.0,
            "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "penalty_alpha": 0.0,
            "presence_penalty": 0.0, "frequency_penalty": 0.0}  # fmt: skip


def not_followed(says: Mapping[str, Any]) -> list[str]:
    """What a generation_config.json asks for that is not done here."""
    return [
        f"{name} {says[name]}"
        for name, neutral in _NEUTRAL.items()
        if says.get(name) is not None and says[name] != neutral
    ]


def _refuse(name: str, value: object, allowed: str) -> None:
    raise LuminaError("E005", f"{name} is {value}", f"give {allowed}")


class Sampler:
    """Draws tokens for the rows of one batch, each row from its own random stream.

    Every row has its own generator with the same seed, so that what a row says does
    not depend on which other rows are in the batch.
    """

    def __init__(self, sampling: Sampling, rows: int) -> None:
        self.sampling = sampling
        self._generators: list[torch.Generator] = []
        for _ in range(0 if sampling.greedy else rows):
            seed = sampling.seed if sampling.seed is not None else secrets.randbits(62)
            self._generators.append(torch.Generator().manual_seed(seed))

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only (indices into the present ones)."""
        if not self.sampling.greedy:
            self._generators = [self._generators[row] for row in rows]

    def uniforms(self, count: int) -> Tensor:
        """[count, B] float32: what the next draws of each row are decided by."""
        drawn = [torch.rand(count, generator=g) for g in self._generators]
        return torch.stack(drawn, dim=1)

    def draw(self, logits_bv: Tensor) -> list[int]:
        """One token id per row.

        Args:
            logits_bv: [B, V] of any floating type.

        Raises:
            LuminaError: E301 when logits are not finite (the weights are broken).
        """
        uniform_b = None
        if not self.sampling.greedy:
            uniform_b = self.uniforms(1)[0].to(logits_bv.device)
        return checked(pick(logits_bv, self.sampling, uniform_b).tolist())


NOT_FINITE = -1
"""Stands for the token of a row whose logits are no numbers."""

NOTHING = -2
"""Stands where a step gave a row fewer tokens than it might have."""


def pick(logits_bv: Tensor, sampling: Sampling, uniform_b: Tensor | None) -> Tensor:
    """One token id per row, [B] int64, without asking the device anything.

    Args:
        logits_bv: [B, V] of any floating type.
        sampling: how tokens are chosen.
        uniform_b: [B] in [0, 1); None where nothing is drawn.

    Returns:
        Token ids, `NOT_FINITE` where logits are not finite.
    """
    logits_bv = logits_bv.float()
    if sampling.greedy or uniform_b is None:
        highest_b, picked_b = largest(logits_bv)
    else:
        highest_b = logits_bv.amax(-1)
        picked_b = choose(logits_bv, sampling, uniform_b)
    return torch.where(torch.isfinite(highest_b), picked_b, NOT_FINITE)


PARTS = 64
"""Parts of a row whose largest numbers are looked for side by side."""


def largest(logits_bv: Tensor) -> tuple[Tensor, Tensor]:
    """The largest number of each row and the first place where it stands, [B] each.

    A GPU gives a whole row to one block of threads, which takes long for a vocabulary;
    so a row is divided.
    """
    width = logits_bv.shape[-1] // PARTS
    if not width:
        best_b = logits_bv.max(dim=-1)
        return best_b.values, best_b.indices
    head_bpw = logits_bv[:, : PARTS * width].unflatten(-1, (PARTS, width))
    tops_bp, places_bp = head_bpw.max(dim=-1)
    begins_p = torch.arange(PARTS, device=logits_bv.device) * width
    places_bp = places_bp + begins_p
    if rest := logits_bv.shape[-1] - PARTS * width:
        top_b1, place_b1 = logits_bv[:, -rest:].max(dim=-1, keepdim=True)
        tops_bp = torch.cat([tops_bp, top_b1], dim=-1)
        places_bp = torch.cat([places_bp, place_b1 + PARTS * width], dim=-1)
    best_b1 = tops_bp.max(dim=-1, keepdim=True)
    return best_b1.values[:, 0], places_bp.gather(-1, best_b1.indices)[:, 0]


def checked(tokens: list[int]) -> list[int]:
    """The tokens of `pick`.

    Raises:
        LuminaError: E301 when logits were not finite (the weights are broken).
    """
    if NOT_FINITE in tokens:
        raise LuminaError(
            "E301",
            "the model's output is not a finite number",
            "its weights have diverged; use an earlier checkpoint",
        )
    return tokens


def choose(logits_bv: Tensor, sampling: Sampling, uniform_b: Tensor) -> Tensor:
    """The token at quantile `uniform_b` of each row's filtered distribution, [B].

    Args:
        logits_bv: [B, V] float32.
        sampling: temperature above 0, top-k and top-p.
        uniform_b: [B] in [0, 1).
    """
    return choose_each(logits_bv, alike(sampling), uniform_b)


class Filters(NamedTuple):
    """How the tokens of rows are drawn, each its own way.

    Attributes:
        temperature_b1: [B, 1] float32 above 0, or one number for all.
        top_k_b1: [B, 1] int64 from 1 on, or one number; not above `most`.
        top_p_b1: [B, 1] float32, or one number.
        most: the likeliest tokens that are looked at; 0: all.
    """

    temperature_b1: Tensor | float
    top_k_b1: Tensor | int
    top_p_b1: Tensor | float
    most: int


MOST_RANKED = 1024
"""Where more tokens may be drawn, all are sorted."""


def ranked(top_k: int) -> int:
    """`Filters.most` for the likeliest `top_k` tokens: a power of two, or 0 for all."""
    return 1 << (top_k - 1).bit_length() if 0 < top_k <= MOST_RANKED else 0


def alike(sampling: Sampling) -> Filters:
    """The filters of rows whose tokens are all drawn one way."""
    top_k = sampling.top_k or EVERY
    return Filters(sampling.temperature, top_k, sampling.top_p, ranked(sampling.top_k))


EVERY = 2**62
"""Stands for a top-k that keeps all tokens."""


def choose_each(logits_bv: Tensor, filters: Filters, uniform_b: Tensor) -> Tensor:
    """As `choose`, each row by its own filters."""
    ordered_bv, ids_bv, keep_bv = _filtered(logits_bv, filters)
    cumulative_bv = (ordered_bv * keep_bv).cumsum(-1)
    target_b1 = uniform_b.unsqueeze(-1) * cumulative_bv[:, -1:]
    rank_b1 = (cumulative_bv <= target_b1).sum(-1, keepdim=True)
    # Rounding may carry the quantile past the last token that may be drawn.
    rank_b1 = torch.minimum(rank_b1, keep_bv.sum(-1, keepdim=True) - 1).clamp(min=0)
    return ids_bv.gather(-1, rank_b1).squeeze(-1)


def _filtered(logits_bv: Tensor, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """Falling probabilities [B, K], their token ids, and which may be drawn."""
    temperature_b1, top_k_b1, top_p_b1, most = filters
    # Taking the maximum off first keeps tiny temperatures from overflowing.
    scaled_bv = (logits_bv - logits_bv.amax(-1, keepdim=True)) / temperature_b1
    if 0 < most < scaled_bv.shape[-1]:
        top = torch.topk(scaled_bv, most, dim=-1)
        scaled_bv, ids_bv = top.values, top.indices
    else:
        scaled_bv, ids_bv = torch.sort(scaled_bv, dim=-1, descending=True, stable=True)
    rank_v = torch.arange(scaled_bv.shape[-1], device=scaled_bv.device)
    scaled_bv = scaled_bv.masked_fill(rank_v >= top_k_b1, -torch.inf)
    ordered_bv = torch.softmax(scaled_bv, dim=-1)
    before_bv = ordered_bv.cumsum(-1) - ordered_bv
    keep_bv = (before_bv < top_p_b1) & (ordered_bv > 0)
    return ordered_bv, ids_bv, keep_bv
