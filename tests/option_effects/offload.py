"""Where tensors live between steps."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from option_effects import shows
from tiny_runs import Program, Runs, seen


@shows("optimizer_states_in", "offload_folder")
def states(runs: Runs) -> None:
    folder = runs.folder / "fast disk"
    found: list[int] = []

    def files(program: Program, _: object) -> int:
        """Files of the folder that this process has open: they have no names."""
        held = (
            os.readlink(one)
            for one in Path("/proc/self/fd").iterdir()
            if one.is_symlink() and os.path.lexists(one)
        )
        return sum(name.startswith(str(folder)) for name in held)

    plain = runs.train(seen(files, found), steps=2)
    paged = runs.train(
        seen(files, found),
        steps=2,
        optimizer_states_in="disk",
        offload_folder=str(folder),
    )
    assert found[0] == 0 and found[-1] > 0
    assert [row["loss"] for row in plain.rows] == [row["loss"] for row in paged.rows]


@shows("optimizer_in_backward")
def in_backward(runs: Runs) -> None:
    found: list[int] = []

    def early(program: Program, _: object) -> int:
        slots = program.optimizer.slots
        return sum(slot.parameter.grad is not None for slot in slots)

    def gradients(program: Program, batches: object) -> int:
        """Gradients that are there when the last one is complete."""
        weight = program.network.backbone.embedding.weight
        weight.register_post_accumulate_grad_hook(
            lambda _: found.append(early(program, batches))
        )
        return 0

    flat = {"steps": 1, "max_grad_norm": 0.0}
    runs.train(seen(gradients, []), **flat)
    runs.train(seen(gradients, []), **flat, optimizer_in_backward=True)
    assert found[0] > 1 and found[1] == 0


@shows("embedding_in")
def table(runs: Runs) -> None:
    """Where the device is the host there is no other place for it."""
    base = runs.train(steps=1, tie_embeddings=False)
    peft = {"use_peft": True, "init_from": str(base.folder), "steps": 1}
    runs.train(**peft)
    assert "CUDA" in runs.refused("E003", **peft, embedding_in="host")
    assert "use_peft" in runs.refused("E002", embedding_in="host")


@shows("weights_in", "weights_ahead")
def streamed_weights(runs: Runs) -> None:
    """A block's weights are brought ahead of it, here from files."""
    base = runs.train(steps=1, num_layers=4)
    peft = {"use_peft": True, "init_from": str(base.folder), "num_layers": 4}
    plain = runs.train(**peft, steps=2)
    for ahead in (1, 2):
        on_their_way: list[int] = []

        def count(program: Program, _: object, into: Any = on_their_way) -> int:
            streamed = getattr(program.network.backbone, "streamed", None)
            assert streamed is not None, "the weights are on the device"
            use = streamed.use

            def used(index: int, towards: int) -> None:
                use(index, towards)
                if (index, towards) == (1, 1):
                    into.append(sum(page.on_its_way for page in streamed.pages))

            streamed.use = used
            return 0

        beside = runs.train(
            seen(count, []),
            **peft,
            steps=2,
            weights_in="disk",
            weights_ahead=ahead,
        )
        assert on_their_way[0] == ahead
        assert beside.column("loss") == plain.column("loss")
    assert "CUDA" in runs.refused("E003", **peft, weights_in="host")
    assert "optimizer's states" in runs.refused("E002", weights_in="disk")
