"""Likelihoods of continuations on a GPU: padded rows are as each alone."""

from __future__ import annotations

import pytest
import torch

from infer.networks import tiny
from infer.test_evaluation_tasks import requests
from lumina.infer.evaluation_tasks.likelihood import likelihoods
from lumina.model.network import Network

pytestmark = pytest.mark.gpu


def on_gpu(dtype: torch.dtype, **changes: object) -> Network:
    network = tiny(hidden_size=64, head_dim=16, **changes).eval()
    network = network.to("cuda", dtype)
    network.backbone.compute_dtype = dtype
    return network


@pytest.mark.parametrize("shape", [{}, {"num_kv_heads": 2}, {"window_size": 6}])
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, 2e-3), (torch.bfloat16, 0.5)]
)
def test_padding_and_neighbours_do_not_matter(
    dtype: torch.dtype, near: float, shape: dict[str, int]
) -> None:
    network, asked = on_gpu(dtype, **shape), requests(7, count=40)
    together = likelihoods(network, asked)
    alone = [likelihoods(network, [one])[0] for one in asked]
    assert [one.log_probability for one in together] == pytest.approx(
        [one.log_probability for one in alone], abs=near
    )
    host = likelihoods(tiny(hidden_size=64, head_dim=16, **shape).eval(), asked)
    if dtype is torch.float32:
        assert [one.log_probability for one in together] == pytest.approx(
            [one.log_probability for one in host], abs=near
        )
