"""What a run says of its held-out text is what the model makes of it."""

from __future__ import annotations

import pytest
import torch

from lumina import Trainer
from lumina.batch import IGNORE
from lumina.measure.held_out import held_out_loss
from lumina.train import evaluations
from training import column


@pytest.mark.covers("EVL-01: accuracy")
def test_a_run_reports_the_share_of_tokens_it_gets_right(tiny_config, monkeypatch):
    shares = []

    @torch.no_grad()
    def counted_by_hand(model, batches, **options):
        right = counted = 0
        batches = list(batches)
        model.eval()
        for batch in batches:
            hidden = model.backbone(batch).hidden
            likeliest = model.objective.logits(hidden, model._tied).argmax(-1)
            bears_loss = batch.labels != IGNORE
            right += (likeliest == batch.labels)[bears_loss].sum().item()
            counted += bears_loss.sum().item()
        shares.append(right / counted)
        return held_out_loss(model, batches, **options)

    monkeypatch.setattr(evaluations, "held_out_loss", counted_by_hand)
    config = tiny_config.replace(steps=40, eval_every_n_batches=20, learning_rate=1e-2)
    run = Trainer(config).train().run_dir
    assert column(run, "eval_accuracy") == pytest.approx(shares)
    assert shares[-1] > 0.02


def test_an_objective_that_does_not_tell_has_no_accuracy():
    class Untold(torch.nn.Module):
        def forward(self, batch):
            from lumina.model.interface import LossSums

            return LossSums(torch.tensor(6.0), torch.tensor(3.0)), {}

    class Anything:
        def to(self, device):
            return self

    outcome = held_out_loss(Untold(), [Anything()], device=torch.device("cpu"))
    assert (outcome.loss, outcome.tokens, outcome.accuracy) == (2.0, 3, None)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_token_weighs_the_same_in_every_batch(batch):
    """Answers of unequal lengths: the mean is over tokens, not over batches."""
    from lumina.model.interface import LossSums

    losses = [[2.0], [10.0] * 9, [], [4.0, 6.0], [1.0] * 3]  # of each row's labels

    class Rows(list):
        def to(self, device):
            return self

    class Told(torch.nn.Module):
        def forward(self, rows):
            of_all = [loss for row in rows for loss in row]
            return LossSums(torch.tensor(sum(of_all)), torch.tensor(len(of_all))), {}

    batches = [Rows(losses[n : n + batch]) for n in range(0, len(losses), batch)]
    outcome = held_out_loss(Told(), batches, device=torch.device("cpu"))
    assert outcome.tokens == 15 and outcome.loss == pytest.approx(105 / 15)
