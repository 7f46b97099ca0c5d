"""Fixtures of the tests that train."""

from __future__ import annotations

import pytest

from training import Trainings


@pytest.fixture(scope="module")
def trainings(tmp_path_factory, lumina_cache, tiny_corpus):
    """Runs of this module, on the tiny corpus."""
    return Trainings(tmp_path_factory.mktemp("runs"), tiny_corpus)
