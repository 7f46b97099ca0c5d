"""Peers that do not compute what Lumina does: plug-ins of tests of the comparison."""

from __future__ import annotations

import torch

from lumina.train.bench.peer import register_peer
from lumina.train.bench.peers.transformers import transformers


def _made(plan, folder, options, change):
    contestant = transformers(plan, folder, options)
    change(contestant)
    return contestant


def _other_positions(contestant):
    contestant.model.model.rotary_emb.inv_freq *= 0.9


def _gradient(contestant):
    for parameter in contestant.model.parameters():
        parameter.register_hook(lambda grad: grad * 1.05)


def _loss(contestant):
    step = contestant.step

    def twice(rows):
        loss, norm = step(rows[:1])
        return loss, norm

    contestant.step = twice


def _sees_the_answer(contestant):
    forward = contestant.model.forward

    def told(input_ids=None, **others):
        output = forward(input_ids=input_ids, **others)
        if output.logits is not None:
            following = torch.roll(input_ids, -1, 1)[..., None]
            more = torch.zeros_like(output.logits).scatter(2, following, 0.01)
            output.logits = output.logits + more
        return output

    contestant.model.forward = told


CHANGES = {
    "positions": _other_positions,
    "gradient": _gradient,
    "half_the_rows": _loss,
    "answers": _sees_the_answer,
}

for _name, _change in CHANGES.items():
    register_peer(_name, module="transformers", package="transformers")(
        lambda plan, folder, options, change=_change: _made(
            plan, folder, options, change
        )
    )
