"""Rows of a fine-tuning: as long as the data needs, the model reads and memory has."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lumina.config import Config
from lumina.model.spec import ModelSpec
from lumina.plan.row_length import LONGEST, with_row_length
from lumina.plan.shape import resolve_spec
from machines import cpu, gpu


def model(context: int, preset: str = "debug") -> tuple[Config, ModelSpec]:
    config = Config(preset=preset, seq_length=context)
    return config, resolve_spec(config)


def chosen(context, documents, machine=None, preset="debug"):
    config, spec = model(context, preset)
    found = with_row_length(
        config,
        machine or cpu(),
        spec,
        None if documents is None else [np.array(documents)],
        vocab_size=None,
        world_size=1,
    )
    assert found.provenance["seq_length"].kind == "decided"
    return found.model.seq_length, found.provenance["seq_length"].detail


@pytest.mark.parametrize(
    ("documents", "length"),
    [
        ([300] * 99 + [5000], 512),  # the one longer document is cut
        ([300] * 98 + [5000] * 2, 8192),
        ([1025] * 10, 1024),  # the last token of a document is only a label
        ([1026] * 10, 2048),
        ([20] * 10, 256),
        ([1_000_000], LONGEST),
        (None, 2048),
    ],
)
def test_a_row_holds_all_but_the_longest_documents(documents, length):
    found, why = chosen(131_072, documents)
    assert found == length and "fine-tuning" in why


def test_the_models_own_maximum_is_not_passed():
    found, why = chosen(1000, [3000] * 10)
    assert found == 1000 and "reads 1,000 at most" in why
    assert chosen(128, [10])[0] == 128


def test_memory_shortens_rows_and_the_reason_says_so():
    roomy = gpu(memory_bytes=140 * 10**9)
    tight = gpu(memory_bytes=19 * 10**9)
    assert chosen(131_072, [8000] * 9, roomy, "dense_1b")[0] == 8192
    found, why = chosen(131_072, [8000] * 9, tight, "dense_1b")
    assert 256 <= found < 8192 and "memory" in why and "8,192" in why


def test_what_the_weights_read_stays_with_them():
    _, spec = model(256)
    assert spec.context_length == 256
    assert replace(spec, context=4096).context_length == 4096
    old = spec.to_dict()
    del old["context"]  # of a checkpoint from before there was one
    assert ModelSpec.from_dict(old) == spec
