"""It learns what can be learned, and not what cannot."""

from __future__ import annotations

import math
import random
import string

import pytest

from training import DENSE, MOE, Trainings, column, words

pytestmark = pytest.mark.thorough


LETTERS = string.ascii_letters + string.digits + "+-"
"""64 characters, each a token of its own in the smallest vocabulary."""

MODELS = pytest.mark.parametrize("model", [DENSE, MOE], ids=["dense", "moe"])


@MODELS
def test_random_tokens_stay_random_held_out(tmp_path, lumina_cache, model):
    """A loss below ln V would mean that the model sees what it is to predict."""
    rng = random.Random(3)
    train, held_out = tmp_path / "train.txt", tmp_path / "held-out.txt"
    train.write_text("".join(rng.choices(LETTERS, k=16_000)))
    held_out.write_text("".join(rng.choices(LETTERS, k=8_000)))
    run = Trainings(tmp_path, train).train(
        "run",
        *model,
        *words("--steps 120 --global-batch-size 16 --batch-size 16 --eval-batches 20"),
        *words("--eval-every-n-batches 20 --tokenizer-vocab-size 261"),
        *words("--learning-rate 5e-3", eval_data=held_out),
    )
    floor = math.log(len(LETTERS))
    losses = column(run, "eval_loss")
    assert min(losses) > floor - 0.01
    assert min(losses) < floor + 0.1  # which letters there are, it did learn


@MODELS
def test_a_repeated_sentence_is_memorised(tmp_path, lumina_cache, model):
    text = tmp_path / "sentence.txt"
    text.write_text("The hen laid five eggs before the fox came home.\n" * 400)
    run = Trainings(tmp_path, text).train(
        "run", *model, *words("--steps 150 --learning-rate 1e-2")
    )
    assert column(run, "loss")[0] > 4
    assert max(column(run, "loss")[-10:]) < 0.2
