"""The options that one place sets: a file, the command line or Python."""

from __future__ import annotations

from lumina.config.leaves import USE_DEEPSPEED, is_on, understood
from lumina.errors import LuminaError

_BESIDES: dict[str, dict[str, object]] = {
    "constant": {"warmup_steps": 0},
    "linear": {"min_lr": 0.0},
    "cosine": {"min_lr": 0.0},
    "warmup_stable_decay": {"min_lr": 0.0},
    "polynomial": {"min_lr": 1e-7, "lr_scheduler_options": ("power=1.0",)},
}
"""What a value of `lr_scheduler_type` means in transformers beside the shape: constant
has no warm-up, and the others fall to zero, polynomial to 1e-7. Lumina's own
`lr_scheduler` warms up by the length of the run and falls to a tenth."""


class Layer:
    """Options gathered one by one, under their one key.

    Args:
        place: where they are set, for an error; "" where that is plain.

    Attributes:
        leaves: key -> value as written.
        spelling: key -> the name under which it was set.
        shares: `use_deepspeed` is on: the work is shared as a stage of ZeRO does.
    """

    def __init__(self, place: str = "") -> None:
        self.place = place
        self.leaves: dict[str, object] = {}
        self.spelling: dict[str, str] = {}
        self.shares = False

    def put(self, name: str, value: object) -> None:
        """Take one option as it was written.

        Raises:
            LuminaError: E002 for an option given under two spellings, E004 for one that
                does not exist, E005 for a switch that is neither on nor off.
        """
        if str(name).strip().replace("-", "_") == USE_DEEPSPEED:
            self.shares = is_on(USE_DEEPSPEED, value)
        for leaf, meant in understood(name, value).items():
            if leaf in self.leaves:
                what = f"{self.place} sets {leaf}" if self.place else f"{leaf} is set"
                raise LuminaError(
                    "E002",
                    f"{what} twice, as {self.spelling[leaf]!r} and {name!r}",
                    "keep one of the two",
                )
            self.leaves[leaf] = meant
            self.spelling[leaf] = str(name).strip().replace("-", "_")

    def settle(self, below: Layer | None = None) -> dict[str, object]:
        """The options, with names of transformers' Trainer meant as there.

        `max_steps` sets `num_train_epochs` aside, in this layer and in the one below;
        `lr_scheduler_type` brings what `_BESIDES` lists where nothing else is said, and
        `use_deepspeed` the first stage of ZeRO that has room.

        Raises:
            LuminaError: E002 for a warm-up beside a constant `lr_scheduler_type`.
        """
        if self.spelling.get("steps") == "max_steps":
            # Epochs named here, in any spelling, hide those of the layer below.
            holder = self if "epochs" in self.leaves else below
            if holder and holder.spelling.get("epochs") == "num_train_epochs":
                holder.leaves.pop("epochs", None)
        if self.spelling.get("lr_scheduler") == "lr_scheduler_type":
            shape = str(self.leaves["lr_scheduler"])
            if shape == "constant":
                self._refuse_warmup()
            for leaf, value in _BESIDES.get(shape, {}).items():
                self.leaves.setdefault(leaf, value)
        if self.shares and not (below and "parallel" in below.leaves):
            self.leaves.setdefault("parallel", "zero")
        return self.leaves

    def _refuse_warmup(self) -> None:
        for leaf in ("warmup_steps", "warmup_ratio"):
            value = self.leaves.get(leaf)
            if value is not None and str(value).strip() not in ("0", "0.0", "auto"):
                raise LuminaError(
                    "E002",
                    f"lr_scheduler_type constant has no warm-up in transformers' "
                    f"Trainer, and {leaf} is {value}",
                    f"use lr_scheduler_type constant_with_warmup, or leave {leaf} out",
                )
