"""Kernels of one token a row against their references, under Triton's interpreter."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("one_token_cases.py")


@pytest.mark.covers("KRN-15")
@pytest.mark.thorough
def test_kernels_are_their_references_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is for Linux with a GPU")
    done = subprocess.run(
        [sys.executable, str(CASES), str(random.randrange(1000))],
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) == 53
