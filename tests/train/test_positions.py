"""Runs of models with other positions and embeddings: ranks, resuming, what follows."""

from __future__ import annotations

import pytest
import torch

import lumina
from lumina.errors import LuminaError
from lumina.infer.generate import generate
from training import DENSE, MOE, assert_same_run, column, start, words

MODELS = {
    "learned": [*DENSE, *words("--pos-encodings learned --use-stable-embedding")],
    "sinusoidal": [
        *MOE,
        *words("--pos-encodings sinusoidal --scale-embeddings"),
        *words("--router-init orthogonal --router-init-std 0.002"),
    ],
}
FLAGS = words(
    "--precision fp32 --save-every-n-batches 3 --eval-every-n-batches 3 "
    "--lr-scheduler constant"
)


@pytest.fixture(scope="module")
def whole(trainings):
    """Six steps in one go, by model; made when first asked for."""
    made = {}

    def get(model):
        if model not in made:
            flags = [*MODELS[model], *FLAGS, "--steps", "6"]
            made[model] = trainings.train(f"whole-{model}", *flags)
        return made[model]

    return get


@pytest.mark.parametrize("model", MODELS)
def test_a_run_goes_on_after_a_stop_as_if_there_was_none(trainings, whole, model):
    """Bit for bit; and it learns."""
    flags = [*MODELS[model], *FLAGS]
    name = f"resumed-{model}"
    trainings.train(name, *flags, "--steps", "3")
    found = trainings.train(name, *flags, "--steps", "6", "--auto-resume")
    assert_same_run(found, whole(model))
    losses = column(found, "loss")
    assert losses[-1] < losses[0]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "parallel"), [("learned", "fsdp2"), ("learned", "ddp")]
)
def test_two_ranks_give_the_losses_of_one(trainings, whole, model, parallel):
    found = trainings.train_on_ranks(
        f"{parallel}-{model}",
        *MODELS[model],
        *FLAGS,
        *words(f"--steps 6 --batch-size 2 --parallel {parallel}"),
    )
    for name in ("loss", "grad_norm"):
        assert column(found, name) == pytest.approx(
            column(whole(model), name), rel=1e-4
        ), name


@pytest.mark.parametrize(
    ("model", "leaf"), [("learned", "pos_encodings"), ("sinusoidal", "pos_encodings")]
)
def test_export_refuses_by_name(whole, model, leaf, tmp_path):
    running = start(
        ["export", str(whole(model)), str(tmp_path / "out")], tmp_path / "log"
    )
    assert running.wait() == 2
    assert "E002" in running.output and leaf in running.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", MODELS)
def test_a_trained_run_generates_what_it_scores(whole, model):
    network, tokenizer = lumina.load(whole(model))
    ids = tokenizer.encode("The cat went to")
    given = list(generate(network, ids, max_new_tokens=8, temperature=0.0))
    assert given
    for token in given:
        with torch.inference_mode():
            assert int(network.logits(torch.tensor([ids]))[0, -1].argmax()) == token
        ids.append(token)


def test_a_table_of_positions_comes_with_its_length(whole, tiny_config):
    """--init-from takes the kind of positions along, and no other length of it."""
    fresh = lumina.Config(
        init_from=str(whole("learned")),
        train_data=tiny_config.data.train_data,
        run_dir=tiny_config.run.run_dir,
        device="cpu",
        precision="fp32",
        steps=1,
        batch_size=2,
    )
    with pytest.raises(LuminaError, match=r"E002.*seq_length 16 is not 32"):
        lumina.Trainer(fresh.replace(seq_length=16)).train()
    with pytest.raises(LuminaError, match=r"E002.*pos_encodings rope is not learned"):
        lumina.Trainer(fresh.replace(pos_encodings="rope")).train()
    run = lumina.Trainer(fresh).train().run_dir
    network, _ = lumina.load(run)
    assert network.spec.pos_encodings == "learned"
    assert network.backbone.position_embedding.weight.shape == (32, 32)
