"""The ranks of a ring in one process, taken in turn."""

from __future__ import annotations

from lumina.ops.attention.ring.link import Send


def in_turn(ranks):
    """Carry out what each rank does, a step of each at a time; what each returns.

    Every rank sends and receives at the same places, as over a network it has to.
    """
    size, answers, found = len(ranks), [None] * len(ranks), [None] * len(ranks)
    sent = []
    while True:
        asked = []
        for rank, steps in enumerate(ranks):
            try:
                asked.append(steps.send(answers[rank]))
            except StopIteration as end:
                found[rank] = end.value
        if not asked:
            return found
        assert len(asked) == size, "some ranks have ended"
        assert len({type(one) for one in asked}) == 1, "ranks are at different places"
        if isinstance(asked[0], Send):
            answers = [len(sent)] * size
            sent.append([tuple(x.clone() for x in one.tensors) for one in asked])
            for rank, one in enumerate(asked):
                there = sent[-1][rank - 1]
                assert tuple(x.shape for x in there) == one.shapes
                assert all(x.is_contiguous() for x in one.tensors)
        else:
            answers = [sent[one.ticket][rank - 1] for rank, one in enumerate(asked)]
