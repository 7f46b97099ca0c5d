"""`lumina` with an evaluation that never ends: `python endless_evaluation.py WORDS`.

The environment says which evaluation that is (ENDLESS_FROM, counted from 1) and which
file tells that it is under way (EVALUATING; the rank is added to its name).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from lumina.cli.main import main
from lumina.train import held_out

_batches = held_out.eval_batches
_evaluations = 0


def _endless(*arguments, **options):
    global _evaluations
    _evaluations += 1
    yield from _batches(*arguments, **options)
    while _evaluations >= int(os.environ["ENDLESS_FROM"]):
        Path(os.environ["EVALUATING"] + os.environ.get("RANK", "0")).touch()
        yield from _batches(*arguments, **options)


if __name__ == "__main__":
    held_out.eval_batches = _endless
    torch.set_num_threads(1)
    sys.exit(main(sys.argv[1:]))
