"""Writes an `Adapter` as a folder that PEFT loads."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lumina.durable import free_bytes, write_file
from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.state.adapters.adapter import PLAIN_LORA, Adapter, Piece
from lumina.state.adapters.experts import fused_pair
from lumina.state.adapters.peft_type import PeftType, type_holding
from lumina.state.adapters.places import Place, Places, places
from lumina.state.adapters.reading import CONFIG, FACTS, PREFIX, WEIGHTS
from lumina.state.huggingface.names import EMBEDDING
from lumina.state.huggingface.staging import staged
from lumina.state.tensor_file import write_tensors

_BY_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")
"""Leaves that PEFT takes for experts' in a routed model, wherever they are."""


def write_adapter(
    adapter: Adapter,
    spec: ModelSpec,
    folder: str | os.PathLike[str],
    *,
    base: str | None = None,
) -> Path:
    """Write adapter_config.json and adapter_model.safetensors.

    Where no family of transformers holds the model, its modules have Lumina's names,
    which Lumina reads again.

    Args:
        adapter: of a model of this shape.
        spec: the shape.
        folder: must not exist, or be empty; appears whole or not at all.
        base: path or name of the base, for PEFT's `base_model_name_or_path`; default:
            what the adapter says.

    Raises:
        LuminaError: E002 for a folder in use and for what the format cannot hold; E104,
            E106 or E204 when it cannot be written.
    """
    kind = type_holding(adapter.method)
    adapter = kind.prepared(adapter)
    where = places(spec)
    written = _Written(adapter, kind, where)
    written.take_all()
    named_base = base or adapter.base
    config = {
        "peft_type": kind.name,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": named_base,
        "inference_mode": True,
        "modules_to_save": written.saved or None,
        "target_modules": written.short(written.modules),
        **kind.settings(adapter),
        **written.ranks(),
    }
    if written.parameters:
        config["target_parameters"] = sorted(written.parameters)
        config["lora_dropout"] = 0.0  # PEFT takes none for parameters
    facts = {
        "method": adapter.method,
        "base": named_base,
        "base_hash": adapter.base_hash,
        "base_storage": adapter.base_storage,
        "dropout": adapter.dropout,
        "names": "Lumina's" if where.format is None else where.format.name,
    }
    with staged(Path(folder).expanduser()) as partial:
        needed = sum(tensor.nbytes for tensor in written.tensors.values())
        if needed > free_bytes(partial):
            raise LuminaError(
                "E204",
                f"the adapter takes {needed:,} bytes, {partial.parent} has "
                f"{free_bytes(partial):,}",
                "free some disk space, or name a folder on another disk",
            )
        write_tensors(partial / WEIGHTS, written.tensors)
        _write_json(partial / CONFIG, config)
        _write_json(partial / FACTS, facts)
    return Path(folder)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(values, indent=2, sort_keys=True) + "\n").encode())


class _Written:
    """What goes into a folder, put together piece by piece.

    Attributes:
        tensors: by their names in the folder.
        modules: paths of those that are adapted, and of them `feedforward`, of which
            IA3 scales the inputs.
        saved: leaves of modules whose weights are held whole.
        parameters: what PEFT has to take for single parameters.
    """

    def __init__(self, adapter: Adapter, kind: PeftType, where: Places) -> None:
        self._adapter, self._kind, self._where = adapter, kind, where
        self._endings = {own: ending for ending, own in kind.tensors.items()}
        self._by_logical = {one.logical: one for one in where.written.values()}
        self.modules: list[str] = []
        self.feedforward: list[str] = []
        self._rank: dict[str, int] = {}
        self._alpha: dict[str, float] = {}
        self.tensors: dict[str, Tensor] = {}
        self.saved: list[str] = []
        self.parameters: set[str] = set()

    def take_all(self) -> None:
        """Take every piece.

        Raises:
            LuminaError: E002 for a piece that the format has no place for.
        """
        left = dict(self._adapter.pieces)
        for module, logical in self._where.experts.items():
            if self._where.format is not None and ".mlp.experts" in module:
                mine = {
                    part: left.pop(name)
                    for part, name in logical.items()
                    if name in left
                }
                self._take_experts(module, mine)
        for name, piece in left.items():
            place = self._by_logical.get(name)
            if place is None:
                raise self._no_place(name)
            self._take(place, piece)
        for name, tensor in self._adapter.replaced.items():
            place = self._by_logical.get(name)
            if place is None:
                raise self._no_place(name)
            if name in self._adapter.pieces:
                self.tensors[f"{PREFIX}{place.module}.base_layer.weight"] = tensor
                continue
            self.tensors[f"{PREFIX}{place.module}.weight"] = tensor
            self.saved.append(_leaf(place.module))

    def _no_place(self, name: str) -> LuminaError:
        return LuminaError(
            "E002",
            f"PEFT's format has no place for the change of {name}",
            "merge the adapter: `lumina adapters merge`",
        )

    def _take(self, place: Place, piece: Piece) -> None:
        """A piece of one module."""
        module, leaf = place.module, _leaf(place.module)
        tensors = dict(piece.tensors)
        if place.logical == EMBEDDING and "a" in tensors:
            tensors = {
                "a_of_embedding": tensors["b"].T,
                "b_of_embedding": tensors["a"].T,
            }
        if "factors_in" in tensors:
            tensors = {"factors": tensors["factors_in"].unsqueeze(0)}
        elif "factors" in tensors:
            tensors = {"factors": tensors["factors"].unsqueeze(1)}
        for own, tensor in tensors.items():
            name = f"{PREFIX}{module}.{self._endings[own]}"
            self.tensors[name] = tensor.contiguous()
        if self._where.experts and leaf in _BY_EXPERTS:
            module = f"{module}.weight"
            self.parameters.add(module)
        else:
            self.modules.append(module)
        if "factors_in" in piece.tensors:
            self.feedforward.append(module)
        self._rank[module], self._alpha[module] = piece.rank, piece.alpha

    def _take_experts(self, module: str, mine: Mapping[str, Piece]) -> None:
        """The pieces of the experts of one layer, as one or two pairs of matrices."""
        if not mine:
            return
        if self._adapter.method not in PLAIN_LORA:
            raise LuminaError(
                "E002",
                f"PEFT's format holds experts changed by LoRA, not by "
                f"{self._adapter.method}",
                "merge the adapter: `lumina adapters merge`",
            )
        rows = {part: piece.tensors["b"].shape[1] for part, piece in mine.items()}
        both = bool({"gate", "up"} & mine.keys()) and "down" in mine
        for parts, leaf in ((("gate", "up"), "gate_up_proj"), (("down",), "down_proj")):
            held = {part: mine[part] for part in parts if part in mine}
            if not held:
                continue
            a, b, rank, alpha = fused_pair(
                held, parts, rows[next(iter(held))], self._adapter.method == "rslora"
            )
            inner = ".base_layer" if both and leaf == "gate_up_proj" else ""
            self.tensors[f"{PREFIX}{module}{inner}.lora_A.weight"] = a
            self.tensors[f"{PREFIX}{module}{inner}.lora_B.weight"] = b
            name = f"{module}.{leaf}"
            self.parameters.add(name)
            self._rank[name], self._alpha[name] = rank, alpha

    def short(self, modules: list[str]) -> list[str]:
        """Modules, each by its leaf alone where all of that leaf are adapted."""
        every = Counter(_leaf(one.module) for one in self._where.written.values())
        mine = Counter(map(_leaf, self.modules))
        whole = {leaf for leaf, number in mine.items() if number == every[leaf]}
        return sorted({_leaf(m) if _leaf(m) in whole else m for m in modules})

    def ranks(self) -> dict[str, Any]:
        """Rank and alpha, the usual ones and those of single modules."""
        names = set(self._kind.settings(self._adapter))
        found: dict[str, Any] = {}
        if self._adapter.method == "ia3":
            found["feedforward_modules"] = self.short(self.feedforward)
            return found
        alpha_name = "lora_alpha" if "init_lora_weights" in names else "alpha"
        if not self._rank:
            return {"r": 1, alpha_name: 1.0}
        rank = Counter(self._rank.values()).most_common(1)[0][0]
        alpha = Counter(self._alpha.values()).most_common(1)[0][0]
        if self._adapter.method == "adalora":
            return {"init_r": rank, "target_r": rank, "lora_alpha": alpha} | (
                self._dropped_ranks(rank)
            )
        return {
            "r": rank,
            alpha_name: _whole(alpha),
            "rank_pattern": {n: r for n, r in self._rank.items() if r != rank},
            "alpha_pattern": {
                n: _whole(a) for n, a in self._alpha.items() if a != alpha
            },
        }

    def _dropped_ranks(self, rank: int) -> dict[str, Any]:
        """AdaLoRA's own pattern: which of the ranks are left, for PEFT to make room."""
        pattern = {
            f"{place.module}.lora_E": [n < left for n in range(rank)]
            for name, piece in self._adapter.pieces.items()
            if (place := self._by_logical.get(name)) is not None
            and (left := piece.tensors["e"].shape[0]) != rank
        }
        return {"rank_pattern": pattern} if pattern else {}


def _leaf(module: str) -> str:
    """The last part of a path."""
    return module.rpartition(".")[2]


def _whole(number: float) -> int | float:
    """A number as PEFT usually writes it, without a fraction where it has none."""
    return int(number) if number == int(number) else number
