"""Random inputs that are the same whenever a test runs, and others where asked.

Every test, and every fixture that several tests share, begins with generators of
Python, NumPy and torch that its own name has seeded. Which inputs a test sees depends
neither on the tests that ran before it in its worker nor on chance, so that a failure
comes again. The properties that Hypothesis checks are tried on fixed examples too.

LUMINA_TEST_SEED=7 before a command draws other inputs and other examples: to look for
failures that the fixed ones do not show, not to judge a change.
"""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

ASKED = os.environ.get("LUMINA_TEST_SEED", "")

# A machine with other work on it makes no test fail: Hypothesis by default takes an
# example that lasts 0.2 s, or a slow beginning, for a fault.
settings.register_profile(
    "steady",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=not ASKED,
)
settings.load_profile("steady")

# By default it also looks through every module of ours that is loaded for numbers and
# words to try, so that examples depend on what other tests have imported. Where a later
# version has no such function, this does nothing.
vars(providers)["is_local_module_file"] = lambda _: False


_test: list[str] = [""]
"""The name of the test that is being set up."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed before the first fixture of the test."""
    _test[0] = item.nodeid
    _seed(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """A shared fixture draws the same whichever test is the first to need it."""
    if fixturedef.scope == "function":
        return (yield)
    named = f"{fixturedef.baseid}::{fixturedef.argname}"
    _seed(f"{named}[{getattr(request, 'param_index', 0)}]")
    try:
        return (yield)
    finally:
        _seed(_test[0])


def _seed(name: str) -> None:
    """Seed what is loaded; a test that imports torch itself finds it as it begins."""
    seed = zlib.crc32(f"{ASKED}{name}".encode())
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed)
    if torch := sys.modules.get("torch"):
        # Not torch.manual_seed, which keeps the stack of each call for a GPU to come.
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(seed)
