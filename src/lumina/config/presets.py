"""Presets: named starting points, each a set of values."""

from __future__ import annotations

from dataclasses import dataclass

from lumina.config.preset_table import L1, ROWS, Row
from lumina.errors import LuminaError
from lumina.similar_names import nearest

DEFAULT_PRESET = "debug"
"""The preset of a run that names neither a preset, a file nor weights."""


@dataclass(frozen=True)
class Preset:
    """A named set of values.

    Attributes:
        values: leaf -> value, for every leaf the preset fixes.
        documented: the size its document gives; the counted one is often another.
        source: the document: "L1", "L2", "H" or "A"; "D" for the dense sizes.
        note: what differs from the document, and why.
        bf16: the memory of its weights in bf16 that its document gives; "": none.
        hardware: what its document names to train it on; "": nothing.
        profiles: those of that hardware that can be planned for.
        adaptive: what its document says of adaptive training at this size.
    """

    name: str
    values: dict[str, object]
    documented: str
    use: str
    source: str
    note: str
    bf16: str = ""
    hardware: str = ""
    profiles: tuple[str, ...] = ()
    adaptive: str = ""

    @property
    def kind(self) -> str:
        """What kind of model it is: dense, MoE, MoD, MoR (or several), HRM or TRM."""
        if self.values.get("use_hrm"):
            return str(self.values.get("hrm_variant", "hrm")).upper()
        names = {"use_moe": "MoE", "use_mod": "MoD", "use_mor": "MoR"}
        found = [name for leaf, name in names.items() if self.values.get(leaf)]
        return "+".join(found) or "dense"


def _preset(row: Row) -> Preset:
    values: dict[str, object] = {
        "vocab_size": row.vocabulary,
        "hidden_size": row.hidden,
        "num_layers": row.layers,
        "num_heads": row.heads,
        "num_kv_heads": row.kv_heads,
        "seq_length": row.context,
        "tie_embeddings": True,
        "use_moe": row.experts > 0,
        "use_mod": "mod" in row.blocks,
        "use_mor": "mor" in row.blocks,
        "global_batch_size": row.batch,
        "learning_rate": row.rate,
        "weight_decay": row.decay,
        "lr_scheduler": "cosine",
    }
    if row.warmup is not None:
        values["warmup_ratio"] = row.warmup
    if row.experts:
        values |= {"num_experts": row.experts, "moe_top_k": 2, "moe_pattern": "all"}
    if row.width is not None:
        values["intermediate_size"] = row.width
    if row.vocabulary < 50304:
        values["tokenizer_vocab_size"] = row.vocabulary
    return Preset(
        row.name,
        values,
        row.documented,
        row.use,
        row.source,
        row.note,
        row.bf16,
        row.hardware,
        row.profiles,
        row.adaptive,
    )


_SUDOKU: dict[str, object] = {
    "use_hrm": True,
    "use_moe": False,
    "use_mod": False,
    "use_mor": False,
    "hidden_size": 512,
    "num_heads": 8,
    "num_kv_heads": 8,
    "num_layers": 8,
    "seq_length": 81,
    "vocab_size": 11,
    "global_batch_size": 768,
    "optimizer": "adam_atan2",
    "beta1": 0.9,
    "beta2": 0.95,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "warmup_ratio": 0.08,
    "weight_decay": 1.0,
    "max_grad_norm": 0.0,
    "puzzle_lr": 1e-4,
    "puzzle_weight_decay": 1.0,
}
"""The recipe of sapientinc/HRM: about 26,000 steps, 2,000 of them warm-up."""

_ONE_MODULE = _SUDOKU | {
    "hrm_variant": "trm",
    "num_layers": 2,
    "l_layers": 2,
    "h_cycles": 3,
    "l_cycles": 6,
    "ema_decay": 0.999,
}

_ARC: dict[str, object] = {
    "puzzle": "arc",
    "seq_length": 900,
    "vocab_size": 12,
    "weight_decay": 0.1,
    "warmup_ratio": 0.005,
    "puzzle_lr": 1e-2,
    "puzzle_weight_decay": 0.1,
    "puzzle_augmentations": 1000,
    "puzzle_votes": 8,
}
"""What differs for ARC: about 400,000 steps in the reference, 2,000 of them warm-up."""

_TEXT: dict[str, object] = {
    "use_hrm": True,
    "hrm_mode": "language_model",
    "use_moe": False,
    "use_mod": False,
    "use_mor": False,
    "hidden_size": 512,
    "num_heads": 8,
    "num_kv_heads": 8,
    "num_layers": 8,
    "seq_length": 512,
    "tokenizer_vocab_size": 8192,
    "halt_max_steps": 4,
    "global_batch_size": 32,
    "learning_rate": 3e-4,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.05,
    "weight_decay": 0.1,
}
"""The same modules on text; every segment is computed in a step, so there are four."""

_NEEDS = "needs files of Sudoku puzzles as train_data"
_JSON = "needs ARC's JSON files as train_data; a vector for each form of each task"

REASONERS = (
    Preset("hrm_sudoku", _SUDOKU, "27M", "Sudoku puzzles", "A", _NEEDS),
    Preset("trm_sudoku", _ONE_MODULE, "7M", "Sudoku, one module", "A", _NEEDS),
    Preset("hrm_text", _TEXT, "36M", "text, halting by token", "A", ""),
    Preset("hrm_arc", _SUDOKU | _ARC, "27M", "ARC tasks", "A", _JSON),
    Preset(
        "trm_arc",
        _ONE_MODULE | _ARC | {"l_cycles": 4},
        "7M",
        "ARC tasks, one module",
        "A",
        _JSON,
    ),
)

PRESETS: dict[str, Preset] = {row.name: _preset(row) for row in ROWS} | {
    preset.name: preset for preset in REASONERS
}
"""Every preset under its one canonical name."""

ALIASES: dict[str, str] = {f"l1:{row.name}": row.name for row in L1} | {
    "l2:debug_200m": "debug_200m",
    "l2:b30": "b30",
}
"""Further names; a bare name that both documents have means the first one's."""


def find_preset(name: str) -> Preset:
    """The preset of that name; case and hyphens do not matter.

    Raises:
        LuminaError: E001, naming the nearest preset.
    """
    if isinstance(name, str) and name in PRESETS:  # a file may hold anything
        return PRESETS[name]
    names = {key.lower(): key for key in PRESETS} | ALIASES
    key = str(name).strip().lower().replace("-", "_")
    if key in names:
        return PRESETS[names[key]]
    close = f"dense_{key}" if f"dense_{key}" in names else nearest(key, names)
    hint = f"did you mean {names.get(close, close)!r}? " if close else ""
    if key.endswith((".yaml", ".yml")):
        hint = "a file is given with --config-file. "
    raise LuminaError(
        "E001",
        f"there is no preset {name!r}",
        f"{hint}`lumina presets` lists them all",
    )
