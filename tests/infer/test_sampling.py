from __future__ import annotations

import pytest
import torch

from lumina.errors import LuminaError
from lumina.infer.sampling import Sampler, Sampling, choose, sampling_for

LOGITS = torch.log(torch.tensor([[0.05, 0.5, 0.15, 0.3]]))


def draws(sampling: Sampling, count: int = 4000) -> torch.Tensor:
    quantiles = (torch.arange(count) + 0.5) / count
    picked = choose(LOGITS.expand(count, -1), sampling, quantiles)
    return torch.bincount(picked, minlength=4) / count


def test_temperature_zero_takes_the_likeliest_token():
    assert Sampler(Sampling(temperature=0), 1).draw(LOGITS) == [1]


def test_frequencies_are_the_probabilities():
    shares = draws(Sampling(temperature=1.0, top_k=0, top_p=1.0))
    torch.testing.assert_close(shares, LOGITS[0].exp(), atol=1e-3, rtol=0)


def test_temperature_sharpens():
    shares = draws(Sampling(temperature=0.5, top_k=0, top_p=1.0))
    expected = torch.softmax(LOGITS[0] / 0.5, -1)
    torch.testing.assert_close(shares, expected, atol=1e-3, rtol=0)


def test_top_k_leaves_only_the_k_likeliest():
    shares = draws(Sampling(temperature=1.0, top_k=2, top_p=1.0))
    expected = torch.tensor([0, 0.625, 0, 0.375])
    torch.testing.assert_close(shares, expected, atol=1e-3, rtol=0)


def test_top_p_takes_the_smallest_set_that_reaches_p():
    shares = draws(Sampling(temperature=1.0, top_k=0, top_p=0.6))
    expected = torch.tensor([0, 0.625, 0, 0.375])
    torch.testing.assert_close(shares, expected, atol=1e-3, rtol=0)
    alone = draws(Sampling(temperature=1.0, top_k=0, top_p=0.01))
    assert alone[1] == 1


def test_tiny_temperature_is_finite_and_greedy():
    assert draws(Sampling(temperature=1e-30, top_k=0, top_p=1.0))[1] == 1


def test_quantile_at_the_edge_never_leaves_the_allowed_set():
    edge = torch.tensor([1.0 - 2**-24])
    picked = choose(LOGITS, Sampling(temperature=1.0, top_k=2, top_p=1.0), edge)
    assert picked.tolist() == [3]


def test_a_seed_repeats_and_does_not_depend_on_the_other_rows():
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=7)
    many, one = Sampler(sampling, 3), Sampler(sampling, 1)
    rows = [many.draw(LOGITS.expand(3, -1)) for _ in range(20)]
    alone = [one.draw(LOGITS)[0] for _ in range(20)]
    assert [row[0] for row in rows] == alone == [row[2] for row in rows]
    assert len(set(alone)) > 1
    other = Sampler(Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=8), 1)
    assert [other.draw(LOGITS)[0] for _ in range(20)] != alone


def test_rows_that_go_on_keep_their_random_stream():
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0, seed=7)
    kept, whole = Sampler(sampling, 2), Sampler(sampling, 1)
    first = kept.draw(LOGITS.expand(2, -1))[1]
    kept.keep([1])
    rest = [kept.draw(LOGITS)[0] for _ in range(10)]
    assert [first, *rest] == [whole.draw(LOGITS)[0] for _ in range(11)]


@pytest.mark.parametrize(
    "values",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"seed": -1},
    ],
)
def test_nonsense_is_refused(values):
    with pytest.raises(LuminaError) as caught:
        Sampling(**values)
    assert caught.value.code == "E005"


def test_broken_weights_are_named():
    with pytest.raises(LuminaError) as caught:
        Sampler(Sampling(), 1).draw(torch.tensor([[0.0, float("nan")]]))
    assert caught.value.code == "E301"


@pytest.mark.parametrize(
    ("says", "given", "chosen"),
    [
        ({}, {}, Sampling()),
        ({"max_length": 99}, {"top_k": 3}, Sampling(top_k=3)),
        ({"do_sample": False}, {}, Sampling(0.0, 50, 1.0)),
        ({"temperature": 0.6, "top_p": 0.9}, {}, Sampling(0.0, 50, 0.9)),
        ({"do_sample": True}, {}, Sampling(1.0, 50, 1.0)),
        ({"do_sample": True, "top_k": 0}, {}, Sampling(1.0, 0, 1.0)),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9},
            {"top_p": 0.5, "seed": 2},
            Sampling(0.6, 50, 0.5, 2),
        ),
        ({"do_sample": False}, {"temperature": 0.7}, Sampling(0.7, 50, 1.0)),
    ],
)
def test_what_is_not_given_is_as_the_model_says(says, given, chosen):
    """As transformers' `generate` reads generation_config.json."""
    assert sampling_for(says, **given) == chosen
