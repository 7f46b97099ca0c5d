"""Another trainer that `lumina bench train --against NAME` runs beside Lumina.

Lumina's own adapters are the files of `lumina.train.bench.peers`, each named like its
peer; one from elsewhere registers itself in a plug-in. An adapter makes a `Contestant`
of weights in a Hugging Face folder. It trains as that trainer's users do, with AdamW
on float32 weights, the gradients clipped.
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName
from lumina.packages import installed
from lumina.plan.plan import Plan

OPTIONS = ("compile", "checkpointing")
"""What may follow a peer's name after a +."""

NOT_COMPARED = {
    "nanochat": "its model is another function than Llama's (no weights in its norms, "
    "squared ReLU, normalised queries and keys, capped logits), so that no weights of "
    "Lumina's give the same losses in it",
}
"""Trainers that people ask for and that cannot compute the same -> why."""


class Contestant(ABC):
    """A trainer with its model, ready for its steps.

    Attributes:
        parameters: how many it has.
    """

    parameters: int

    @abstractmethod
    def ready(self, ids_bs: Tensor, labels_bs: Tensor) -> Any:
        """The rows of a step as `step` takes them, on the device.

        Args:
            ids_bs: [B, S] int64, B the rows of a step.
            labels_bs: [B, S] int64, the token that follows each position.
        """

    @abstractmethod
    def step(self, rows: Any) -> tuple[Tensor, Tensor]:
        """One step of training: its loss [] and the norm of its gradients []."""


class PeerContestant(Contestant):
    """Another trainer, whose losses are checked against Lumina's.

    Attributes:
        model: its model, with float32 parameters.
    """

    model: Any

    @abstractmethod
    def token_losses(self, ids_bs: Tensor, labels_bs: Tensor) -> Tensor:
        """[B, S] float32: the cross entropy of every token, computed in float32."""


@dataclass(frozen=True)
class Peer:
    """A trainer that there is an adapter for.

    Attributes:
        name: what `--against` calls it.
        make: makes its contestant of a Plan, a Hugging Face folder and options.
        module: what is imported of it.
        package: what pip calls it.
        gpu: whether it needs a CUDA device.
        refuses: why it cannot do what a Plan asks; "" where it can.
    """

    name: str
    make: Callable[[Plan, Path, frozenset[str]], PeerContestant]
    module: str
    package: str
    gpu: bool = False
    refuses: Callable[[Plan], str] = lambda plan: ""

    @property
    def version(self) -> str:
        """Of the package that is installed; "" where none is."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def require(self, plan: Plan) -> None:
        """Refuse a peer that is not installed, or that cannot do what is asked.

        Raises:
            LuminaError: E003 or E002.
        """
        if not installed(self.module):
            raise LuminaError(
                "E003",
                f"{self.name} is not installed",
                f"pip install {self.package}, or leave out --against {self.name}",
            )
        if self.gpu and plan.device != "cuda":
            raise LuminaError(
                "E003",
                f"{self.name} runs on CUDA devices, and this training is on "
                f"{plan.device}",
                f"leave out --against {self.name}",
            )
        why = not_compared(plan) or self.refuses(plan)
        if why:
            raise LuminaError(
                "E002",
                f"{self.name} cannot be compared with this training: {why}",
                "change that setting for the comparison",
            )


PEERS = FoundByName[Peer]("lumina.train.bench.peers")
"""Every peer whose file has been imported, by name."""

P = TypeVar("P", bound=Callable[..., PeerContestant])


def register_peer(name: str, **declared: Any) -> Callable[[P], P]:
    """A decorator that enters what makes a contestant; arguments as of `Peer`."""

    def decorate(make: P) -> P:
        PEERS[name] = Peer(name, make, **declared)
        return make

    return decorate


def chosen_peer(text: str) -> tuple[Peer, frozenset[str]]:
    """The peer and its options that NAME+OPTION means.

    Raises:
        LuminaError: E005 for a peer or an option that there is not, E002 for a peer
            whose model is another function.
    """
    name, *options = text.split("+")
    if name in NOT_COMPARED:
        raise LuminaError(
            "E002",
            f"{name} cannot be compared step by step: {NOT_COMPARED[name]}",
            "compare the time in which both reach a held-out loss",
        )
    peer = PEERS.found(name)
    if peer is None:
        raise LuminaError(
            "E005", f"there is no peer {name!r}", f"choose {', '.join(PEERS.known())}"
        )
    if unknown := sorted(set(options) - set(OPTIONS)):
        raise LuminaError(
            "E005",
            f"{text} has the option {unknown[0]!r}, which there is not",
            f"options are {', '.join('+' + one for one in OPTIONS)}",
        )
    return peer, frozenset(options)


def not_compared(plan: Plan) -> str:
    """Why no peer does what a Plan asks; "" where nothing stands in the way."""
    only = {
        "optimizer": plan.optimizer == "adamw" and not plan.optimizer_groups,
        "world_size": plan.world_size == 1,
        "fp8": not plan.fp8,
        "precision": plan.compute_dtype in ("float32", "bfloat16"),
        "train_precision": plan.weights_dtype == "float32",
        "adapters": not plan.spec.adapters,
        "quantization_aware_bits": not plan.rounded_to,
        "label_smoothing": not plan.label_smoothing,
        "freeze": not plan.freeze,
        "lr_transfer": not plan.lr_transfer,
        "gradient_steps": not plan.gradient_steps,
        "qk_clip": not plan.qk_clip,
        "dropout": not plan.spec.dropout,
    }
    wrong = [name for name, fits in only.items() if not fits]
    if not wrong:
        return ""
    return f"the adapters train with AdamW alone in one process, and {wrong[0]} is set"
